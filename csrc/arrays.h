// SPDX-License-Identifier: Apache-2.0
// Checked views of NumPy arrays. Every function here throws std::invalid_argument (ValueError in Python) naming the
// argument, what was received and the mend.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace nagfast {

namespace py = pybind11;

inline std::string describe(const py::array& array) {
  std::string text = py::str(array.dtype()).cast<std::string>() + " [";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + "]";
}

[[noreturn]] inline void refuse(const char* name, const std::string& expected, const py::array& got,
                                const std::string& mend) {
  throw std::invalid_argument(std::string(name) + ": expected " + expected + ", got " + describe(got) + "; " + mend);
}

template <typename T>
bool holds(const py::array& array) {
  return array.dtype().is(py::dtype::of<T>()) || array.dtype().equal(py::dtype::of<T>());
}

// Checks dimensions, alignment, and that the last `contiguous` dimensions are C-contiguous among themselves.
inline void require_layout(const char* name, const py::array& array, py::ssize_t ndim, py::ssize_t contiguous) {
  if (array.ndim() != ndim) refuse(name, std::to_string(ndim) + " dimensions", array, "reshape it");
  py::ssize_t stride = array.itemsize();
  for (py::ssize_t i = ndim - 1; i >= ndim - contiguous; --i) {
    if (array.size() > 0 && array.shape(i) > 1 && array.strides(i) != stride) {
      refuse(name, contiguous == ndim ? "a C-contiguous array" : "a contiguous last dimension",
             array, "use numpy.ascontiguousarray (outputs: allocate it so)");
    }
    stride *= array.shape(i);
  }
  bool aligned = reinterpret_cast<uintptr_t>(array.data()) % static_cast<uintptr_t>(array.itemsize()) == 0;
  for (py::ssize_t i = 0; i < ndim; ++i) aligned = aligned && array.strides(i) % array.itemsize() == 0;
  if (array.size() > 0 && !aligned) refuse(name, "an aligned array", array, "use a copy of it");
}

template <typename T>
void require_dtype(const char* name, const py::array& array, const char* expected) {
  if (!holds<T>(array)) refuse(name, expected, array, "convert it with astype or allocate it so");
}

inline void require_shape(const char* name, const py::array& array, std::initializer_list<int64_t> shape) {
  std::string expected = "shape [";
  bool same = array.ndim() == static_cast<py::ssize_t>(shape.size());
  py::ssize_t i = 0;
  for (const int64_t size : shape) {
    expected += (i ? ", " : "") + std::to_string(size);
    same = same && array.shape(i) == size;
    ++i;
  }
  if (!same) refuse(name, expected + "]", array, "allocate it with this shape");
}

inline void require_writeable(const char* name, const py::array& array) {
  if (!array.writeable()) refuse(name, "a writeable array", array, "use a copy of it");
}

inline int64_t stride_of(const py::array& array, py::ssize_t dimension) {
  return static_cast<int64_t>(array.strides(dimension) / array.itemsize());
}

inline int require_threads(int64_t threads) {
  if (threads < 1 || threads > 1024) {
    throw std::invalid_argument("threads: expected 1 to 1024, got " + std::to_string(threads) +
                                "; os.cpu_count() is a good value");
  }
  return static_cast<int>(threads);
}

}  // namespace nagfast
