// SPDX-License-Identifier: Apache-2.0
// Walks blocks and queries: threads share the queries, each goes block by block, so that a block's rows stay near.
#include "bit_search.h"

#include <algorithm>
#include <vector>

#include "bit_lanes.h"
#include "bit_targets.h"
#include "nag_check.h"
#include "parallel.h"
#include "prefetch.h"
#include "row_lists.h"

namespace nagfast {
namespace {

// Queries taken together, so that their results stay within kHeapBytes. Many, as every one of their turns reads all
// rows from memory.
constexpr int64_t kHeapBytes = int64_t{32} << 20;
constexpr int64_t kMostQueries = 65536;
// Items whose sums are kept between two groups of layers: 640 bytes each.
constexpr int64_t kBitTogether = 1024;
// Rows of the next block that each item sends for at most.
constexpr int64_t kMostSent = 64;

int64_t queries_together(int64_t k) {
  const int64_t fitting = kHeapBytes / (k * static_cast<int64_t>(sizeof(NearestKey)));
  return std::clamp(fitting, int64_t{256}, kMostQueries);
}

// The least sum with which a target of id `lowest` or above can replace `worst`.
int64_t bound_to_enter(NearestKey worst, int64_t lowest) {
  if (worst == 0) return 0;
  const int64_t count = count_of(worst);
  return nearest_key(count, lowest) > worst ? count : count + 1;
}

// A query and the lanes of a block, [first, last), that are searched for it.
struct BitItem {
  int64_t query;
  int32_t first;
  int32_t last;
};

}  // namespace

// The searching of one thread.
template <typename Index>
class BitSearcher {
 public:
  BitSearcher(const BitTargets& targets, const NagView<Index>& queries, int64_t first_id, Isa isa)
      : targets_(targets),
        first_id_(first_id),
        find_lanes_(finder(isa)),
        lists_(queries),
        planes_(bit_planes(targets.layers() * targets.k())),
        sums_(static_cast<size_t>(kBitTogether * planes_)) {
    task_.planes = planes_;
    task_.mask = &mask_;
  }

  // Takes the queries [first, last), the only ones that are searched for until more are taken.
  void take(int64_t first, int64_t last) {
    first_taken_ = first;
    lists_.take(last - first, [=](int64_t i) { return first + i; });
  }

  // Merges targets of a block into the results heap_of(query) of the queries of item_of(0..count).
  template <typename ItemOf, typename HeapOf>
  void search(int64_t block, int64_t count, const ItemOf& item_of, const HeapOf& heap_of) {
    if (count == 0) return;
    block_ = block;
    task_.rows = targets_.rows(block);
    ids_ = targets_.ids(block);
    next_ = targets_.begin(block + 1);
    next_end_ = targets_.begin(block + 2);
    share_ = std::min((next_end_ - next_ + count - 1) / count, kMostSent);
    lowest_ = targets_.lowest_id(block) + first_id_;
    for (int64_t start = 0; start < count; start += kBitTogether) {
      const int64_t size = std::min(kBitTogether, count - start);
      if (first_taken_ < 0) lists_.take(size, [&](int64_t i) { return item_of(start + i).query; });
      const int64_t split = layers_before_check(open_items(start, size, item_of, heap_of));
      if (split > 0) add_layers(0, split, heap_of);
      add_layers(split, targets_.layers(), heap_of);
    }
  }

 private:
  using Finder = bool (*)(const BitTask&);

  // An item that may still find something.
  struct Open {
    BitItem item;
    int64_t place;  // of its sums
    int64_t bound;  // the least sum that counts
  };

  // Opens the items [start, start + size) that can find something; returns their mean bound.
  template <typename ItemOf, typename HeapOf>
  int64_t open_items(int64_t start, int64_t size, const ItemOf& item_of, const HeapOf& heap_of) {
    open_.clear();
    int64_t bounds = 0;
    for (int64_t i = 0; i < size; ++i) {
      const BitItem item = item_of(start + i);
      const int64_t bound = bound_to_enter(heap_of(item.query).worst(), lowest_);
      if (bound > targets_.layers() * targets_.k()) continue;
      open_.push_back({item, i, bound});
      bounds += bound;
    }
    return open_.empty() ? 0 : bounds / static_cast<int64_t>(open_.size());
  }

  // Once fewer rows are left than the bound asks for, most blocks are out of the question: none of their lanes has
  // reached what is missing. An eighth of the bound is enough to tell. 0 where too little would be left to save.
  int64_t layers_before_check(int64_t bound) const {
    const int64_t left = bound * 7 / 8 / targets_.k();
    return left * 4 < targets_.layers() ? 0 : targets_.layers() - left;
  }

  static Finder finder(Isa isa) {
    switch (isa) {
#if defined(NAGFAST_X86)
      case Isa::kAvx512:
        return find_lanes_avx512;
      case Isa::kAvx2:
        return find_lanes_avx2;
#endif
      default:
        return find_lanes_scalar;
    }
  }

  // Adds the layers [start, end) to the sums of the open items and keeps those that can still reach their bound.
  template <typename HeapOf>
  void add_layers(int64_t start, int64_t end, const HeapOf& heap_of) {
    const bool whole = end == targets_.layers();
    const int64_t left = (targets_.layers() - end) * targets_.k();
    task_.fresh = start == 0;
    size_t kept = 0;
    int64_t places[kBitBatch];
    for (size_t from = 0; from < open_.size(); from += kBitBatch) {
      const size_t size = std::min<size_t>(kBitBatch, open_.size() - from);
      for (size_t i = 0; i < size; ++i) {
        const Open& open = open_[from + i];
        places[i] = first_taken_ < 0 ? open.place : open.item.query - first_taken_;
      }
      lists_.look_up(targets_.map(block_), targets_.neurons(), start, end, places, static_cast<int64_t>(size));
      for (size_t i = 0; i < size; ++i) {
        const Open open = open_[from + i];
        task_.list = lists_.list(static_cast<int64_t>(i));
        task_.count = lists_.padded(static_cast<int64_t>(i));
        task_.bound = std::max<int64_t>(0, open.bound - left);
        if (start == 0) send_for_next();
        task_.sums = sums_.data() + (whole && start == 0 ? 0 : open.place) * planes_;
        task_.first_word = open.item.first / 64;
        task_.last_word = (open.item.last + 63) / 64;
        if (!find_lanes_(task_)) continue;
        if (whole) {
          offer(open.item, heap_of(open.item.query));
        } else {
          open_[kept++] = open;
        }
      }
    }
    open_.resize(kept);
  }

  // Sends for a share of the next block.
  NAGFAST_ALWAYS_INLINE void send_for_next() {
    const BitRow* end = std::min(next_ + share_, next_end_);
    for (; next_ < end; ++next_) NAGFAST_PREFETCH(next_);
  }

  // Merges the targets of an item's lanes in the mask into the results of its query.
  void offer(const BitItem& item, NearestHeap heap) {
    restrict_to(item.first, item.last, mask_);
    if (task_.bound == 0) keep_largest(task_.sums, planes_, heap.k, mask_);
    for (int w = task_.first_word; w < task_.last_word; ++w) {
      for (uint64_t word = mask_.words[w]; word != 0; word &= word - 1) {
        const int bit = lowest_bit(word);
        const int64_t id = ids_[64 * w + bit];
        if (id < 0) continue;
        const NearestKey key = nearest_key(sum_of(w, bit), id + first_id_);
        if (key > heap.worst()) heap.replace_worst(key);
      }
    }
  }

  int64_t sum_of(int word, int bit) const {
    uint64_t sum = 0;
    for (int p = 0; p < planes_; ++p) sum |= (task_.sums[p].words[word] >> bit & 1) << p;
    return static_cast<int64_t>(sum);
  }

  const BitTargets& targets_;
  int64_t first_id_;
  const Finder find_lanes_;
  RowLists<Index> lists_;
  const int planes_;
  std::vector<BitRow> sums_;  // [kBitTogether, planes_]
  std::vector<Open> open_;
  BitRow mask_{};
  BitTask task_{};
  int64_t first_taken_ = -1;  // -1: every search takes its own queries
  int64_t block_ = 0;
  const int64_t* ids_ = nullptr;
  int64_t lowest_ = 0;
  const BitRow* next_ = nullptr;  // [next_, next_end_): of the next block, not yet sent for
  const BitRow* next_end_ = nullptr;
  int64_t share_ = 0;
};

namespace {

// Calls work(searcher, first, last, heaps) for batches of queries, with their results in heaps.
template <typename Index, typename Work>
void for_batches(const NagView<Index>& queries, const NearestResults& results, int threads, const Work& work) {
  const int64_t together = queries_together(results.k);
  parallel_ranges(queries.documents, 1, threads, [&](int64_t first, int64_t last) {
    std::vector<NearestKey> keys(static_cast<size_t>(std::min(together, last - first) * results.k));
    for (int64_t start = first; start < last; start += together) {
      const int64_t end = std::min(last, start + together);
      const auto heap = [&](int64_t query) {
        return NearestHeap{keys.data() + (query - start) * results.k, results.k};
      };
      for (int64_t query = start; query < end; ++query) heap(query).read(results, query);
      work(start, end, heap);
      for (int64_t query = start; query < end; ++query) heap(query).write(results, query);
    }
  });
}

// The queries [first, last) that probe each list: starts [lists + 1] into queries.
struct Probed {
  std::vector<int64_t> starts;
  std::vector<int64_t> queries;
};

Probed sort_probes(const int32_t* probes, int64_t width, int64_t first, int64_t last, int64_t lists) {
  Probed probed;
  const auto each = [&](const auto& visit) {
    std::vector<int64_t> named(static_cast<size_t>(lists), first - 1);  // the last query that named each list
    for (int64_t query = first; query < last; ++query) {
      for (int64_t i = 0; i < width; ++i) {
        const int32_t list = probes[query * width + i];
        if (list < 0 || named[static_cast<size_t>(list)] == query) continue;
        named[static_cast<size_t>(list)] = query;
        visit(query, static_cast<size_t>(list));
      }
    }
  };
  probed.starts.assign(static_cast<size_t>(lists + 2), 0);
  each([&](int64_t, size_t list) { ++probed.starts[list + 2]; });
  for (size_t list = 2; list < probed.starts.size(); ++list) probed.starts[list] += probed.starts[list - 1];
  probed.queries.resize(static_cast<size_t>(probed.starts.back()));
  each([&](int64_t query, size_t list) { probed.queries[static_cast<size_t>(probed.starts[list + 1]++)] = query; });
  return probed;
}

}  // namespace

template <typename Index>
void BitTargets::search(const NagView<Index>& queries, const NearestResults& results, int64_t first, int threads,
                        Isa isa) const {
  require_documents("queries", queries, neurons_, threads);
  for_batches(queries, results, threads, [&](int64_t start, int64_t end, const auto& heap) {
    BitSearcher<Index> searcher(*this, queries, first, isa);
    searcher.take(start, end);
    for (size_t block = 0; block < blocks_.size(); ++block) {
      const auto item = [&](int64_t i) { return BitItem{start + i, 0, blocks_[block].lanes}; };
      searcher.search(static_cast<int64_t>(block), end - start, item, heap);
    }
  });
}

template <typename Index>
void BitTargets::search_lists(const NagView<Index>& queries, const int32_t* probes, int64_t width,
                              const NearestResults& results, int64_t first, int threads, Isa isa) const {
  require_documents("queries", queries, neurons_, threads);
  for_batches(queries, results, threads, [&](int64_t start, int64_t end, const auto& heap) {
    BitSearcher<Index> searcher(*this, queries, first, isa);
    const Probed probed = sort_probes(probes, width, start, end, lists());
    std::vector<BitItem> items;
    for (auto range = ranges_.begin(); range != ranges_.end();) {
      const int64_t block = range->block;
      items.clear();
      for (; range != ranges_.end() && range->block == block; ++range) {
        const auto list = static_cast<size_t>(range->list);
        for (int64_t i = probed.starts[list]; i < probed.starts[list + 1]; ++i) {
          items.push_back({probed.queries[static_cast<size_t>(i)], range->first, range->last});
        }
      }
      const auto item = [&](int64_t i) { return items[static_cast<size_t>(i)]; };
      searcher.search(block, static_cast<int64_t>(items.size()), item, heap);
    }
  });
}

template void BitTargets::search(const NagView<uint16_t>&, const NearestResults&, int64_t, int, Isa) const;
template void BitTargets::search(const NagView<uint32_t>&, const NearestResults&, int64_t, int, Isa) const;
template void BitTargets::search_lists(const NagView<uint16_t>&, const int32_t*, int64_t, const NearestResults&,
                                       int64_t, int, Isa) const;
template void BitTargets::search_lists(const NagView<uint32_t>&, const int32_t*, int64_t, const NearestResults&,
                                       int64_t, int, Isa) const;

}  // namespace nagfast
