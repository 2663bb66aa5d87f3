// SPDX-License-Identifier: Apache-2.0
// Walks blocks and queries: threads share the queries, each goes block by block, so that a block's rows stay near.
#include "bit_search.h"

#include <algorithm>
#include <vector>

#include "bit_targets.h"
#include "nag_check.h"
#include "parallel.h"
#include "row_lists.h"

namespace nagfast {
namespace {

// Queries taken together, so that their results stay within kHeapBytes. Many, as every one of their turns reads all
// rows from memory.
constexpr int64_t kHeapBytes = int64_t{32} << 20;
constexpr int64_t kMostQueries = 65536;

int64_t queries_together(int64_t k) {
  const int64_t fitting = kHeapBytes / (k * static_cast<int64_t>(sizeof(NearestKey)));
  return std::clamp(fitting, int64_t{256}, kMostQueries);
}

int lowest_bit(uint64_t word) {
#if defined(__GNUC__)
  return __builtin_ctzll(word);
#else
  int bit = 0;
  while ((word >> bit & 1) == 0) ++bit;
  return bit;
#endif
}

int64_t ones(const BitRow& row) {
  int64_t count = 0;
  for (uint64_t word : row.words) {
    for (; word != 0; word &= word - 1) ++count;
  }
  return count;
}

// Leaves of the lanes in `mask` those whose sum is among the k largest, ties included: decided bit by bit from the top.
void keep_largest(const BitRow* sums, int planes, int64_t k, BitRow& mask) {
  BitRow sure{};
  BitRow open = mask;
  int64_t wanted = k;
  for (int p = planes - 1; p >= 0; --p) {
    BitRow with;
    for (int w = 0; w < kBitWords; ++w) with.words[w] = open.words[w] & sums[p].words[w];
    const int64_t count = ones(with);
    if (count >= wanted) {
      open = with;
      continue;
    }
    wanted -= count;
    for (int w = 0; w < kBitWords; ++w) {
      sure.words[w] |= with.words[w];
      open.words[w] &= ~sums[p].words[w];
    }
  }
  for (int w = 0; w < kBitWords; ++w) mask.words[w] = sure.words[w] | open.words[w];
}

// Clears the lanes outside [first, last).
void restrict_to(int64_t first, int64_t last, BitRow& mask) {
  for (int64_t w = 0; w < kBitWords; ++w) {
    const int64_t low = std::clamp(first - 64 * w, int64_t{0}, int64_t{64});
    const int64_t high = std::clamp(last - 64 * w, int64_t{0}, int64_t{64});
    const uint64_t below_high = high == 64 ? ~uint64_t{0} : (uint64_t{1} << high) - 1;
    const uint64_t below_low = low == 64 ? ~uint64_t{0} : (uint64_t{1} << low) - 1;
    mask.words[w] &= below_high & ~below_low;
  }
}

// The least sum with which a target of id `lowest` or above can replace `worst`.
int64_t bound_to_enter(NearestKey worst, int64_t lowest) {
  if (worst == 0) return 0;
  const int64_t count = count_of(worst);
  return nearest_key(count, lowest) > worst ? count : count + 1;
}

}  // namespace

// The searching of one thread.
template <typename Index>
class BitSearcher {
 public:
  BitSearcher(const BitTargets& targets, const NagView<Index>& queries, int64_t first_id, Isa isa)
      : targets_(targets),
        queries_(queries),
        first_id_(first_id),
        find_lanes_(finder(isa)),
        lists_(targets.layers(), targets.k()),
        sums_(static_cast<size_t>(bit_planes(targets.layers() * targets.k()))) {
    task_.planes = static_cast<int>(sums_.size());
    task_.sums = sums_.data();
    task_.mask = &mask_;
  }

  // Merges the targets of a range into the results heap_of(query) of the queries query_of(0..count).
  template <typename QueryOf, typename HeapOf>
  void search(const BitRange& range, int64_t count, const QueryOf& query_of, const HeapOf& heap_of) {
    enter(range);
    int64_t numbers[2 * kBitBatch];
    for (int64_t start = 0; start < count; start += kBitBatch) {
      const int64_t size = std::min(kBitBatch, count - start);
      const int64_t following = std::min(kBitBatch, count - start - size);
      for (int64_t i = 0; i < size + following; ++i) numbers[i] = query_of(start + i);
      lists_.take(queries_, numbers, size, following);
      lists_.look_up(targets_.map(range.block), targets_.neurons());
      for (int64_t i = 0; i < size; ++i) {
        task_.list = lists_.list(i);
        task_.count = lists_.padded(i);
        task_.next = lists_.list(i + 1);
        task_.next_count = i + 1 < size ? lists_.rows(i + 1) : 0;
        offer(lists_.rows(i), heap_of(numbers[i]));
      }
    }
  }

 private:
  using Finder = bool (*)(const BitTask&);

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

  void enter(const BitRange& range) {
    range_ = range;
    task_.rows = targets_.rows(range.block);
    task_.first_word = range.first / 64;
    task_.last_word = (range.last + 63) / 64;
    ids_ = targets_.ids(range.block);
    lowest_ = targets_.lowest_id(range.block) + first_id_;
  }

  // Merges the targets of the range into the results of the query whose rows the task holds.
  void offer(int64_t rows, NearestHeap heap) {
    task_.bound = bound_to_enter(heap.worst(), lowest_);
    if (task_.bound > rows || !find_lanes_(task_)) return;
    restrict_to(range_.first, range_.last, mask_);
    if (task_.bound == 0) keep_largest(sums_.data(), task_.planes, heap.k, mask_);
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
    for (size_t p = 0; p < sums_.size(); ++p) sum |= (sums_[p].words[word] >> bit & 1) << p;
    return static_cast<int64_t>(sum);
  }

  const BitTargets& targets_;
  const NagView<Index>& queries_;
  const int64_t first_id_;
  const Finder find_lanes_;
  RowLists<Index> lists_;
  std::vector<BitRow> sums_;
  BitRow mask_;
  BitTask task_{};
  BitRange range_{};
  const int64_t* ids_ = nullptr;
  int64_t lowest_ = 0;
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
      const auto heap = [&](int64_t query) { return NearestHeap{keys.data() + (query - start) * results.k, results.k}; };
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
  const auto repeated = [&](int64_t query, int64_t i) {
    const int32_t* row = probes + query * width;
    return std::find(row, row + i, row[i]) != row + i;
  };
  const auto each = [&](const auto& visit) {
    for (int64_t query = first; query < last; ++query) {
      for (int64_t i = 0; i < width; ++i) {
        const int32_t list = probes[query * width + i];
        if (list >= 0 && !repeated(query, i)) visit(query, static_cast<size_t>(list));
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
    for (size_t block = 0; block < blocks_.size(); ++block) {
      const BitRange range{static_cast<int64_t>(block), 0, blocks_[block].lanes};
      searcher.search(range, end - start, [&](int64_t i) { return start + i; }, heap);
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
    for (size_t list = 0; list + 1 < list_ranges_.size(); ++list) {
      const int64_t* probing = probed.queries.data() + probed.starts[list];
      const int64_t count = probed.starts[list + 1] - probed.starts[list];
      for (int64_t range = list_ranges_[list]; range < list_ranges_[list + 1]; ++range) {
        searcher.search(ranges_[static_cast<size_t>(range)], count, [&](int64_t i) { return probing[i]; }, heap);
      }
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
