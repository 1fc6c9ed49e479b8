// SPDX-License-Identifier: Apache-2.0
// The engine for Python: descriptions in, runs with the GIL given back.
#include "bind_engine.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine.h"
#include "isa.h"
#include "model.h"
#include "probe.h"
#include "profile.h"

namespace thinmaps {

Isa IsaOf(const std::string& name) {
  if (name.empty()) return ChosenIsa();
  for (const Isa isa : kIsas) {
    if (name == NameOf(isa) && Runs(isa)) return isa;
  }
  throw std::invalid_argument("no instruction set '" + name + "' on this machine");
}

namespace {

template <typename T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
std::vector<T> Copy(const Array<T>& array) {
  return {array.data(), array.data() + array.size()};
}

// Names of those that run here, from the least to the chosen one.
std::vector<std::string> IsaNames() {
  std::vector<std::string> names;
  for (const Isa isa : kIsas) {
    if (Runs(isa) && isa <= ChosenIsa()) names.emplace_back(NameOf(isa));
  }
  return names;
}

// Filters by node name, shared by the models that are built with them.
struct SharedWeights {
  PackedWeights packed;
};

// Builds a model line by line: buffers and maps first, then nodes, which are packed at once, and
// the steps.
class Builder {
 public:
  Builder(int64_t arena_bytes, std::shared_ptr<SharedWeights> weights, const std::string& isa_name)
      : weights_(std::move(weights)), isa_(IsaOf(isa_name)) {
    head_.arena_bytes = arena_bytes;
  }

  void Buffer(int64_t offset, int64_t slot_bytes, int32_t slots) {
    head_.buffers.push_back({offset, slot_bytes, slots});
  }

  // `place` is (buffer, channel, pixel bytes, unit rows), or None for a map of the caller's.
  void Map(std::string name, std::array<int32_t, 3> shape, float scale, int32_t zero_point,
           bool is_float, std::optional<std::array<int32_t, 4>> place) {
    MapDescription map;
    map.name = std::move(name);
    map.height = shape[0];
    map.width = shape[1];
    map.channels = shape[2];
    map.scale = scale;
    map.zero_point = zero_point;
    map.is_float = is_float;
    if (place.has_value()) {
      map.buffer = (*place)[0];
      map.channel = (*place)[1];
      map.pixel_bytes = (*place)[2];
      map.unit_rows = (*place)[3];
    } else {
      map.pixel_bytes = shape[2] * (is_float ? 4 : 1);
    }
    head_.maps.push_back(std::move(map));
  }

  void Node(std::string name, std::string op, std::vector<int32_t> inputs, int32_t output,
            int32_t state, const Array<int32_t>& integers, const Array<int8_t>& weights,
            const Array<int32_t>& bias, const Array<float>& multiplier, const Array<uint8_t>& table,
            std::string codec_id, int32_t winograd_rows) {
    Started().Add({std::move(name),
                   std::move(op),
                   std::move(inputs),
                   output,
                   state,
                   Copy(integers),
                   {weights.data(), weights.size()},
                   Copy(bias),
                   Copy(multiplier),
                   Copy(table),
                   std::move(codec_id),
                   winograd_rows},
                  weights_->packed);
  }

  // Rows of (node, first work row, work rows, nanoseconds that it may take).
  void Steps(
      const nb::ndarray<const int32_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>& steps) {
    Model& model = Started();
    for (size_t i = 0; i < steps.shape(0); ++i) {
      const int32_t* step = steps.data() + 4 * i;
      model.Add({step[0], step[1], step[2], step[3]});
    }
  }

  // The model, once; the builder is of no use afterwards.
  std::shared_ptr<Model> Build() {
    Started();
#if defined(__GLIBC__)
    malloc_trim(0);  // building leaves holes in the heap: up to 6 MiB, half a millisecond
#endif
    return std::exchange(model_, nullptr);
  }

 private:
  Model& Started() {
    if (model_ == nullptr) {
      model_ = std::make_shared<Model>(std::exchange(head_, {}), isa_, weights_->packed);
    }
    return *model_;
  }

  std::shared_ptr<SharedWeights> weights_;
  Isa isa_;
  Description head_;
  std::shared_ptr<Model> model_;
};

// An engine together with the list of its externals, made once so that running allocates nothing.
class BoundEngine {
 public:
  // `externals` are the indices of the maps in the caller's buffers, in the order `Run` takes
  // them; the first `inputs` of them are only read.
  BoundEngine(std::shared_ptr<Model> model, int32_t threads, std::vector<int32_t> externals,
              int32_t inputs, bool prefault)
      : engine_(std::move(model), CheckThreads(threads), prefault), inputs_(inputs) {
    const auto& maps = engine_.model().maps();
    size_t with_the_caller = 0;
    for (const auto& map : maps) with_the_caller += map.buffer == -1;
    std::vector<bool> listed(maps.size());
    for (const int32_t map : externals) {
      const auto index = static_cast<size_t>(map);
      if (map < 0 || index >= maps.size() || maps[index].buffer != -1 || listed[index]) {
        throw std::invalid_argument("map " + std::to_string(map) + " is not the caller's");
      }
      listed[index] = true;
      externals_.push_back({map, nullptr, 0});
    }
    if (externals.size() != with_the_caller) {
      throw std::invalid_argument("a map of the caller's is not listed");
    }
    views_.resize(externals.size());
  }

  // Runs steps first .. stop - 1. Each buffer is C-contiguous and holds 1 or more whole rows.
  // The GIL guards `views_`: while it is given back, a second run is refused.
  void Run(nb::sequence buffers, int32_t first, int32_t stop) {
    if (!views_free_) throw std::runtime_error("this engine is running; clone it to run two");
    const auto steps = static_cast<int32_t>(engine_.model().steps().size());
    if (first < 0 || first > stop || stop > steps) {
      throw std::invalid_argument("steps " + std::to_string(first) + " to " + std::to_string(stop) +
                                  " are not among the plan's " + std::to_string(steps));
    }
    const Views views(*this, buffers);
    nb::gil_scoped_release released;
    engine_.Run(externals_, first, stop);
  }

  // One run of all steps; nanoseconds of each, as `thinmaps::Profile` says.
  std::vector<int64_t> Profile(nb::sequence buffers) {
    if (!views_free_) throw std::runtime_error("this engine is running; clone it to run two");
    const Views views(*this, buffers);
    nb::gil_scoped_release released;
    return thinmaps::Profile(engine_, externals_);
  }

  int64_t ArenaBytes() const { return engine_.model().arena_bytes(); }

  std::vector<int64_t> EncodedBytes() const {
    const auto counted = engine_.encoded_bytes();
    return {counted.begin(), counted.end()};
  }

  std::vector<int64_t> Overflows() const {
    const auto counted = engine_.overflows();
    return {counted.begin(), counted.end()};
  }

  nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>> Arena() const {
    return {engine_.arena(), {static_cast<size_t>(ArenaBytes())}};
  }

 private:
  static int32_t CheckThreads(int32_t threads) {
    if (threads < 1 || threads > 256) {
      throw std::invalid_argument("an engine has 1 to 256 threads, got " + std::to_string(threads));
    }
    return threads;
  }

  // The caller's buffers while they are in use.
  class Views {
   public:
    Views(BoundEngine& bound, nb::sequence& buffers) : bound_(bound) {
      bound.views_free_ = false;
      try {
        TakeAll(buffers);
      } catch (...) {
        Release();
        throw;
      }
    }
    ~Views() { Release(); }
    Views(const Views&) = delete;
    Views& operator=(const Views&) = delete;

   private:
    void Release() {
      while (taken_ > 0) PyBuffer_Release(&bound_.views_[--taken_]);
      bound_.views_free_ = true;
    }

    void TakeAll(nb::sequence& buffers) {
      if (nb::len(buffers) != bound_.externals_.size()) {
        throw std::invalid_argument("an engine needs one buffer per input and output");
      }
      for (size_t i = 0; i < bound_.externals_.size(); ++i) {
        const nb::object buffer = buffers[i];
        Take(i, buffer.ptr());
      }
    }

    void Take(size_t i, PyObject* buffer) {
      External& external = bound_.externals_[i];
      const MapDescription& map = bound_.engine_.model().maps()[static_cast<size_t>(external.map)];
      const bool is_input = i < static_cast<size_t>(bound_.inputs_);
      Py_buffer& view = bound_.views_[i];
      const int flags = PyBUF_C_CONTIGUOUS | (is_input ? 0 : PyBUF_WRITABLE);
      if (PyObject_GetBuffer(buffer, &view, flags) != 0) throw nb::python_error();
      ++taken_;
      const int64_t row_bytes = int64_t{map.width} * map.pixel_bytes;
      if (view.len < row_bytes || view.len % row_bytes != 0 || view.len > row_bytes * map.height) {
        throw std::invalid_argument("map '" + map.name + "' needs whole rows of " +
                                    std::to_string(row_bytes) + " bytes, got " +
                                    std::to_string(view.len) + " bytes");
      }
      external.base = static_cast<uint8_t*>(view.buf);
      external.slots = static_cast<int32_t>(view.len / row_bytes);
    }

    BoundEngine& bound_;
    size_t taken_ = 0;
  };

  Engine engine_;
  int32_t inputs_;
  std::vector<External> externals_;
  std::vector<Py_buffer> views_;
  bool views_free_ = true;
};

}  // namespace

void BindEngine(nb::module_& m) {
  using namespace nb::literals;
  m.def(
      "isa", [] { return std::string(NameOf(ChosenIsa())); },
      "The instruction set that engines use unless told otherwise.");
  m.def("isas", &IsaNames, "The instruction sets that run here, from the least to that of `isa`.");
  m.def(
      "products_per_second", [](const std::string& isa) { return ProductsPerSecond(IsaOf(isa)); },
      "isa"_a, nb::call_guard<nb::gil_scoped_release>(),
      "Products of integers that one core does in a second at most.");
  m.def("copied_bytes_per_second", &CopiedBytesPerSecond, nb::call_guard<nb::gil_scoped_release>(),
        "Bytes that one core reads and writes in a second when it copies within its L2 cache.");
  nb::class_<SharedWeights>(m, "Weights").def(nb::init<>());
  nb::class_<Model>(m, "Model").def_prop_ro("weights_bytes", &Model::weights_bytes);
  nb::class_<Builder>(m, "Builder")
      .def(nb::init<int64_t, std::shared_ptr<SharedWeights>, const std::string&>(), "arena_bytes"_a,
           "weights"_a, "isa"_a)
      .def("buffer", &Builder::Buffer, "offset"_a, "slot_bytes"_a, "slots"_a)
      .def("map", &Builder::Map, "name"_a, "shape"_a, "scale"_a, "zero_point"_a, "is_float"_a,
           "place"_a.none())
      .def("node", &Builder::Node, "name"_a, "op"_a, "inputs"_a, "output"_a, "state"_a,
           "integers"_a, "weights"_a, "bias"_a, "multiplier"_a, "table"_a, "codec_id"_a,
           "winograd_rows"_a)
      .def("steps", &Builder::Steps, "steps"_a)
      .def("build", &Builder::Build);
  nb::class_<BoundEngine>(m, "Engine")
      .def(nb::init<std::shared_ptr<Model>, int32_t, std::vector<int32_t>, int32_t, bool>(),
           "model"_a, "threads"_a, "externals"_a, "inputs"_a, "prefault"_a)
      .def("run", &BoundEngine::Run, "buffers"_a, "first"_a, "stop"_a)
      .def("profile", &BoundEngine::Profile, "buffers"_a)
      .def_prop_ro("encoded_bytes", &BoundEngine::EncodedBytes)
      .def_prop_ro("overflows", &BoundEngine::Overflows)
      .def_prop_ro("arena", &BoundEngine::Arena, nb::rv_policy::reference_internal);
}

}  // namespace thinmaps
