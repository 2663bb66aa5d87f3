// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

namespace nagfast {

// NAGs [documents, layers, k], the last dimension contiguous, strides in elements; not owned. Index is uint16_t or
// uint32_t. A document that has no NAG holds the sentinel, all bits set, everywhere.
template <typename Index>
struct NagView {
  const Index* data;
  int64_t documents;
  int64_t layers;
  int64_t k;
  int64_t document_stride;
  int64_t layer_stride;

  static constexpr Index kSentinel = std::numeric_limits<Index>::max();

  const Index* document(int64_t d) const { return data + d * document_stride; }
  bool starts_with_sentinel(int64_t d) const { return layers > 0 && k > 0 && *document(d) == kSentinel; }

  // Whether each document's entries lie in one run.
  bool dense() const { return layer_stride == k || layers == 1; }
};

// Throws std::invalid_argument for the first entry of document d that is not an index below `neurons`.
template <typename Index>
[[noreturn]] void refuse_index(const NagView<Index>& nags, int64_t d, int64_t neurons, const char* name = "nags") {
  for (int64_t l = 0; l < nags.layers; ++l) {
    const Index* row = nags.document(d) + l * nags.layer_stride;
    for (int64_t i = 0; i < nags.k; ++i) {
      if (static_cast<int64_t>(row[i]) < neurons) continue;
      throw std::invalid_argument(std::string(name) + ": document " + std::to_string(d) + ", layer " + std::to_string(l) +
                                  " holds index " + std::to_string(row[i]) + ", but a layer has N = " +
                                  std::to_string(neurons) + " neurons; use the NAGs and counts of one model");
    }
  }
  throw std::logic_error(std::string(name) + ": document " + std::to_string(d) + " changed while it was read");
}

// Precondition: document d starts with the sentinel. Throws std::invalid_argument unless it is the sentinel throughout.
template <typename Index>
void require_all_sentinel(const NagView<Index>& nags, int64_t d, const char* name = "nags") {
  for (int64_t l = 0; l < nags.layers; ++l) {
    const Index* row = nags.document(d) + l * nags.layer_stride;
    for (int64_t i = 0; i < nags.k; ++i) {
      if (row[i] == nags.kSentinel) continue;
      throw std::invalid_argument(std::string(name) + ": document " + std::to_string(d) + " starts with the sentinel " +
                                  std::to_string(nags.kSentinel) + " but holds " + std::to_string(row[i]) +
                                  " in layer " + std::to_string(l) + "; a document without a NAG holds it everywhere");
    }
  }
}

}  // namespace nagfast
