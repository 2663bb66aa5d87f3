// SPDX-License-Identifier: Apache-2.0
#include "sets.h"

#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "parallel.h"

namespace nagfast {
namespace {

constexpr int64_t kBlock = 64;          // documents handed to a kernel together
constexpr int64_t kLeastPairs = 1024;   // worth a thread
constexpr int64_t kBucketsUpTo = 96;    // neurons a layer; with more the buckets are deep and the table is faster
constexpr int64_t kLaneLimit = 1 << 15;  // entries of a document that 16-bit lanes surely count

// A set as marks in a table: 1, or the neuron's weight.
template <typename Index, typename Sum>
class Table {
  using Cell = std::conditional_t<std::is_same_v<Sum, int64_t>, uint32_t, uint8_t>;

 public:
  Table(const OverlapTask<Index, Sum>& task, Isa)
      : task_(task), cells_(static_cast<size_t>(task.a.layers * task.neurons), 0) {}

  void enter(int64_t d) {
    clear();
    entered_ = d;
    mark(d, [&](int64_t cell) { return task_.weights ? static_cast<Cell>(task_.weights[cell]) : Cell{1}; });
  }

  // The empty set.
  void clear() {
    if (entered_ >= 0) mark(entered_, [](int64_t) { return Cell{0}; });
    entered_ = -1;
  }

  int64_t sums(const OverlapRows<Index>& rows, Sum* out) const { return overlap_rows_scalar(cells_.data(), rows, out); }

 private:
  template <typename Value>
  void mark(int64_t d, const Value& value) {
    for (int64_t l = 0; l < task_.a.layers; ++l) {
      const Index* row = task_.a.document(d) + l * task_.a.layer_stride;
      for (int64_t i = 0; i < task_.a.k; ++i) {
        const int64_t cell = l * task_.neurons + row[i];
        cells_[static_cast<size_t>(cell)] = value(cell);
      }
    }
  }

  const OverlapTask<Index, Sum>& task_;
  std::vector<Cell> cells_;
  int64_t entered_ = -1;
};

#if defined(NAGFAST_X86)

class Buckets {
 public:
  Buckets(const OverlapTask<uint16_t, int32_t>& task, Isa isa) : a_(task.a), wide_(isa != Isa::kAvx2) {
    set_.bits = wide_ ? 5 : 3;
    set_.layers = a_.layers;
    clear();
  }

  void enter(int64_t d) { build_buckets(a_.document(d), a_.layer_stride, a_.k, set_); }
  void clear() { build_buckets(nullptr, 0, 0, set_); }

  int64_t sums(const OverlapRows<uint16_t>& rows, int32_t* out) const {
    return wide_ ? overlap_rows_avx512(set_.view(), rows, out) : overlap_rows_avx2(set_.view(), rows, out);
  }

 private:
  const NagView<uint16_t>& a_;
  bool wide_;
  SetBuckets set_;
};

class Vectors {
 public:
  Vectors(const OverlapTask<uint16_t, int32_t>& task, Isa) : a_(task.a), set_(a_.layers, a_.k, task.b.k) {}

  void enter(int64_t d) { set_.enter(a_.document(d), a_.layer_stride); }
  void clear() { set_.clear(); }

  int64_t sums(const OverlapRows<uint16_t>& rows, int32_t* out) const {
    return overlap_rows_vp2intersect(set_.view(), rows, out);
  }

 private:
  const NagView<uint16_t>& a_;
  SetVectors set_;
};

#endif

// Makes document d of a the set; one without a NAG is the empty set.
template <typename Set, typename Index, typename Sum>
void enter_checked(const OverlapTask<Index, Sum>& task, int64_t d, Set& set) {
  const NagView<Index>& a = task.a;
  if (a.starts_with_sentinel(d)) {
    require_all_sentinel(a, d, "a");
    return set.clear();
  }
  Index largest = 0;
  for (int64_t l = 0; l < a.layers; ++l) {
    const Index* row = a.document(d) + l * a.layer_stride;
    largest = std::max(largest, *std::max_element(row, row + a.k));
  }
  if (static_cast<int64_t>(largest) >= task.neurons) refuse_index(a, d, task.neurons, "a");
  set.enter(d);
}

// A document of b to be summed, and where its sum goes.
template <typename Index, typename Sum>
class Block {
 public:
  explicit Block(const OverlapTask<Index, Sum>& task) : task_(task), documents_(kBlock + kOverlapAhead) {}

  // Returns whether the block is full.
  bool add(int64_t d, int64_t place) {
    documents_[static_cast<size_t>(count_)] = task_.b.document(d);
    rows_[count_] = d;
    places_[count_++] = place;
    return count_ == kBlock;
  }

  template <typename Set>
  void sum(const Set& set) {
    if (count_ == 0) return;
    std::fill_n(documents_.begin() + count_, kOverlapAhead, documents_[static_cast<size_t>(count_ - 1)]);
    const NagView<Index>& b = task_.b;
    const OverlapRows<Index> rows{documents_.data(), count_, b.layers, b.layer_stride, b.k, task_.neurons};
    Sum sums[kBlock];
    const int64_t done = set.sums(rows, sums);
    if (done < count_) refuse_index(b, rows_[done], task_.neurons, "b");
    for (int64_t i = 0; i < count_; ++i) task_.out[places_[i]] = sums[i];
    count_ = 0;
  }

 private:
  const OverlapTask<Index, Sum>& task_;
  std::vector<const Index*> documents_;
  int64_t rows_[kBlock];
  int64_t places_[kBlock];
  int64_t count_ = 0;
};

// The result of a pair that is not summed: 0 for a document of b without a NAG, -1 where there is no candidate.
template <typename Index>
int without_sum(const NagView<Index>& b, int64_t d, int64_t row, int64_t column) {
  if (d == -1) return -1;
  if (d < -1 || d >= b.documents) {
    throw std::invalid_argument("candidates: entry [" + std::to_string(row) + ", " + std::to_string(column) + "] is " +
                                std::to_string(d) + ", but there are " + std::to_string(b.documents) +
                                " targets; use their row numbers, and -1 for none");
  }
  require_all_sentinel(b, d, "b");
  return 0;
}

// out[p] for p in [first, last), row by row of `columns`; target(p) is the document of b, -1 for none, or throws.
template <typename Set, typename Index, typename Sum, typename Target>
void sum_range(const OverlapTask<Index, Sum>& task, int64_t columns, int64_t first, int64_t last, Isa isa,
               const Target& target) {
  Set set(task, isa);
  Block<Index, Sum> block(task);
  for (int64_t p = first; p < last;) {
    enter_checked(task, p / columns, set);
    const int64_t end = std::min(last, (p / columns + 1) * columns);
    for (; p < end; ++p) {
      const int64_t d = target(p);
      const bool counts = d >= 0 && d < task.b.documents && !task.b.starts_with_sentinel(d);
      if (!counts) {
        block.sum(set);  // whatever is wrong there comes first
        task.out[p] = without_sum(task.b, d, p / columns, p % columns);
      } else if (block.add(d, p)) {
        block.sum(set);
      }
    }
    block.sum(set);
  }
}

// Whether the buckets serve this task, which is one of uint16 without weights.
template <typename Task>
bool suits_buckets(const Task& task, Isa isa) {
  return isa != Isa::kScalar && task.b.k >= 16 && task.a.k <= kBucketsUpTo && task.b.layers * task.b.k < kLaneLimit;
}

template <typename Index, typename Sum, typename Target>
void sum_all(const OverlapTask<Index, Sum>& task, int64_t columns, int threads, Isa isa, const Target& target) {
  parallel_ranges(task.a.documents * columns, kLeastPairs, threads, [&](int64_t first, int64_t last) {
#if defined(NAGFAST_X86)
    if constexpr (std::is_same_v<Index, uint16_t> && std::is_same_v<Sum, int32_t>) {
      const bool vectors = isa == Isa::kVp2intersect && task.b.dense() && task.a.layers * task.a.k < kLaneLimit;
      if (suits_buckets(task, isa) && vectors) return sum_range<Vectors>(task, columns, first, last, isa, target);
      if (suits_buckets(task, isa)) return sum_range<Buckets>(task, columns, first, last, isa, target);
    }
#endif
    sum_range<Table<Index, Sum>>(task, columns, first, last, isa, target);
  });
}

}  // namespace

template <typename Index, typename Sum>
void overlap_pairs(const OverlapTask<Index, Sum>& task, int threads) {
  parallel_ranges(task.a.documents, kLeastPairs, threads, [&](int64_t first, int64_t last) {
    sum_range<Table<Index, Sum>>(task, 1, first, last, Isa::kScalar, [](int64_t p) { return p; });
  });
}

template <typename Index, typename Sum>
void overlap_matrix(const OverlapTask<Index, Sum>& task, int threads, Isa isa) {
  const int64_t columns = task.b.documents;
  sum_all(task, columns, threads, isa, [=](int64_t p) { return p % columns; });
}

template <typename Index, typename Sum>
void overlap_candidates(const OverlapTask<Index, Sum>& task, const int64_t* candidates, int64_t columns, int threads,
                        Isa isa) {
  sum_all(task, columns, threads, isa, [=](int64_t p) { return candidates[p]; });
}

#define NAGFAST_OVERLAP(Index, Sum)                                                                    \
  template void overlap_pairs(const OverlapTask<Index, Sum>&, int);                                    \
  template void overlap_matrix(const OverlapTask<Index, Sum>&, int, Isa);                              \
  template void overlap_candidates(const OverlapTask<Index, Sum>&, const int64_t*, int64_t, int, Isa);

NAGFAST_OVERLAP(uint16_t, int32_t)
NAGFAST_OVERLAP(uint16_t, int64_t)
NAGFAST_OVERLAP(uint32_t, int32_t)
NAGFAST_OVERLAP(uint32_t, int64_t)

}  // namespace nagfast
