// A program on MXNet's C API that binds, writes and runs what the fuzzer asks for: client.py has
// the other end of its pipes.
//
// A request is its length, an identifier of its kind and the rest; an answer is its length, 0 and
// what there is to say, or 1 and MXNet's message.  All numbers are those of this machine.
#include <dlfcn.h>
#include <mxnet/c_api.h>
#include <mxnet/c_predict_api.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// NNVM's, whose header is not among MXNet's.
extern "C" {
int NNGetOpHandle(const char* name, void** op);
int NNSymbolListInputNames(SymbolHandle symbol, int option, uint32_t* number, const char*** names);
}

namespace {

using Names = std::vector<std::string>;
using Texts = std::vector<const char*>;
using Handles = std::map<std::string, NDArrayHandle>;

constexpr int kCpu = 1;
constexpr size_t kBytes[] = {4, 8, 2, 1, 4, 1, 8, 1};  // by type flag

struct Failed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void check(int code) {
  if (code) throw Failed{MXGetLastError()};
}

// ---- the pipes ----------------------------------------------------------------------------------

struct Array {
  std::string name;
  uint32_t role = 0, dtype = 0;
  std::vector<uint32_t> shape;
  const char* data = nullptr;
  size_t count = 1;
};

using Arrays = std::vector<Array>;

class Request {
 public:
  explicit Request(std::string bytes) : bytes_(std::move(bytes)) {}

  uint32_t number() {
    uint32_t value = 0;
    std::memcpy(&value, taken(sizeof value), sizeof value);
    return value;
  }

  std::string text() {
    const uint32_t size = number();
    return {taken(size), size};
  }

  Arrays arrays() {
    Arrays made(number());
    for (auto& one : made) {
      one.name = text();
      one.role = number();
      one.dtype = number();
      one.shape.resize(number());
      for (auto& size : one.shape) one.count *= size = number();
      one.data = taken(one.count * kBytes[one.dtype]);
    }
    return made;
  }

 private:
  const char* taken(size_t size) {
    const char* begin = bytes_.data() + place_;
    place_ += size;
    return begin;
  }

  std::string bytes_;
  size_t place_ = 0;
};

class Answer {
 public:
  void number(uint32_t value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof value); }

  void array(uint32_t dtype, const std::vector<uint32_t>& shape, const std::string& data) {
    number(dtype);
    number(shape.size());
    for (uint32_t size : shape) number(size);
    bytes += data;
  }

  std::string bytes;
};

bool receive(int from, char* to, size_t size) {
  while (size) {
    const ssize_t got = read(from, to, size);
    if (got <= 0) return false;
    to += got;
    size -= got;
  }
  return true;
}

bool send(int to, const char* from, size_t size) {
  while (size) {
    const ssize_t put = write(to, from, size);
    if (put <= 0) return false;
    from += put;
    size -= put;
  }
  return true;
}

// ---- arrays -------------------------------------------------------------------------------------

NDArrayHandle made_of(const Array& from) {
  NDArrayHandle made = nullptr;
  check(MXNDArrayCreateEx(from.shape.data(), from.shape.size(), kCpu, 0, 0, from.dtype, &made));
  check(MXNDArraySyncCopyFromCPU(made, from.data, from.count));
  return made;
}

std::vector<uint32_t> shape_of(NDArrayHandle array) {
  int ndim = 0;
  const int* shape = nullptr;
  check(MXNDArrayGetShapeEx(array, &ndim, &shape));
  return {shape, shape + ndim};
}

void tell(NDArrayHandle array, Answer* answer) {
  int dtype = 0;
  check(MXNDArrayGetDType(array, &dtype));
  const auto shape = shape_of(array);
  size_t count = 1;
  for (uint32_t size : shape) count *= size;
  std::string data(count * kBytes[dtype], 0);
  check(MXNDArraySyncCopyToCPU(array, data.data(), count));
  answer->array(dtype, shape, data);
}

// Runs an operator whose output is an array that is there.
void invoke(const char* name, std::vector<NDArrayHandle> inputs, NDArrayHandle output,
            Texts keys = {}, Texts values = {}) {
  AtomicSymbolCreator op = nullptr;
  check(NNGetOpHandle(name, &op));
  int count = 1;
  NDArrayHandle* outputs = &output;
  const int* stypes = nullptr;
  check(MXImperativeInvokeEx(op, inputs.size(), inputs.data(), &count, &outputs, keys.size(),
                             keys.data(), values.data(), &stypes));
}

// MXNet refuses to write from outside of its operators into an array that one of them has brought
// into oneDNN's layout.
void copy_into(NDArrayHandle to, const Array& from) {
  if (!MXNDArraySyncCopyFromCPU(to, from.data, from.count)) return;
  NDArrayHandle other = made_of(from);
  invoke("_copyto", {other}, to);
  check(MXNDArrayFree(other));
}

void copy_into_row(NDArrayHandle array, const Array& from) {
  NDArrayHandle row = nullptr;
  check(MXNDArraySlice(array, 0, 1, &row));
  const int code = MXNDArraySyncCopyFromCPU(row, from.data, from.count);
  check(MXNDArrayFree(row));
  if (!code) return;
  NDArrayHandle other = made_of(from);
  invoke("_slice_assign", {array, other}, array, {"begin", "end"}, {"(0,)", "(1,)"});
  check(MXNDArrayFree(other));
}

// How to write to a weight, as graphs.WRITES has them.
enum Write : uint32_t { kAssign, kRow, kSet, kLoad };

void write_to(NDArrayHandle array, const Array& value, uint32_t how) {
  if (how == kAssign) return copy_into(array, value);
  if (how == kRow) return copy_into_row(array, value);
  NDArrayHandle other = made_of(value);
  if (how == kSet || MXNDArraySyncCopyFromNDArray(array, other, -1)) {
    invoke("_copyto", {other}, array);
  }
  check(MXNDArrayFree(other));
}

// ---- what is bound ------------------------------------------------------------------------------

class Bound {
 public:
  Bound() = default;
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;
  virtual ~Bound() = default;
  virtual void run(const Arrays& inputs, Answer* answer) = 0;
  virtual void write(const Array& value, uint32_t how) = 0;
};

struct Symbol {
  SymbolHandle handle = nullptr;

  explicit Symbol(const std::string& json) { check(MXSymbolCreateFromJSON(json.c_str(), &handle)); }
  Symbol(const Symbol&) = delete;
  Symbol& operator=(const Symbol&) = delete;
  ~Symbol() { MXSymbolFree(handle); }

  template <typename List>
  Names names(const List& list) const {
    uint32_t number = 0;
    const char** names = nullptr;
    check(list(handle, &number, &names));
    return {names, names + number};
  }
};

// Names and shapes as the calls that bind take them.
template <typename Size>
struct Shapes {
  Texts names;
  std::vector<Size> sizes;
  std::vector<uint32_t> begins{0};

  explicit Shapes(const Arrays& arrays) {
    for (const auto& one : arrays) {
      if (one.role != 0) continue;
      names.push_back(one.name.c_str());
      sizes.insert(sizes.end(), one.shape.begin(), one.shape.end());
      begins.push_back(sizes.size());
    }
  }
};

class Executors : public Bound {
 public:
  Executors(const std::string& json, const Arrays& given, bool simply, bool early)
      : symbol_(json), early_(early) {
    arguments_ = symbol_.names(MXSymbolListArguments);
    states_ = symbol_.names(MXSymbolListAuxiliaryStates);
    simply ? simple_bind(given) : bind(given);
    fetch(&first_);
  }

  ~Executors() override {
    for (auto& other : others_) free(&other.second);
    free(&first_);
  }

  void run(const Arrays& inputs, Answer* answer) override {
    One& one = at(inputs);
    for (const auto& input : inputs) {
      const auto found = one.arrays.find(input.name);
      if (found != one.arrays.end()) copy_into(found->second, input);
    }
    check(MXExecutorForward(one.handle, 0));
    if (!early_) fetch_now(&one);
    answer->number(one.outputs.size());
    for (NDArrayHandle output : one.outputs) tell(output, answer);
  }

  void write(const Array& value, uint32_t how) override {
    write_to(first_.arrays.at(value.name), value, how);
  }

 private:
  struct One {
    ExecutorHandle handle = nullptr;
    Handles arrays;
    std::vector<NDArrayHandle> outputs;
  };

  void bind(const Arrays& given) {
    std::vector<NDArrayHandle> arguments, states;
    for (const auto& one : given) first_.arrays[one.name] = made_of(one);
    for (const auto& name : arguments_) arguments.push_back(first_.arrays.at(name));
    for (const auto& name : states_) states.push_back(first_.arrays.at(name));
    std::vector<NDArrayHandle> none(arguments.size());
    std::vector<uint32_t> requests(arguments.size());
    check(MXExecutorBindEX(symbol_.handle, kCpu, 0, 0, nullptr, nullptr, nullptr, arguments.size(),
                           arguments.data(), none.data(), requests.data(), states.size(),
                           states.data(), nullptr, &first_.handle));
  }

  void simple_bind(const Arrays& given) {
    const Shapes<int> shapes(given);
    Texts typed, shaped = shapes.names;
    std::vector<int> types;
    for (const auto& one : given) {
      if (one.role == 2) continue;
      typed.push_back(one.name.c_str());
      types.push_back(one.dtype);
    }
    const char* request = "null";
    int buffer = -1;
    const char** buffer_names = nullptr;
    NDArrayHandle* buffer_arrays = nullptr;
    Made made;
    check(MXExecutorSimpleBindEx(
        symbol_.handle, kCpu, 0, 0, nullptr, nullptr, nullptr, 0, nullptr, &request, shaped.size(),
        shaped.data(), shapes.sizes.data(), shapes.begins.data(), typed.size(), typed.data(),
        types.data(), 0, nullptr, nullptr, 0, nullptr, &buffer, nullptr, nullptr, &buffer_names,
        &buffer_arrays, &made.num_arguments, &made.arguments, &made.gradients, &made.num_states,
        &made.states, nullptr, &first_.handle));
    keep(made, &first_);
    for (const auto& one : given) {
      if (one.role != 0) copy_into(first_.arrays.at(one.name), one);
    }
  }

  // The executor for the shapes of some inputs.
  One& at(const Arrays& inputs) {
    bool same = true;
    for (const auto& input : inputs) {
      const auto found = first_.arrays.find(input.name);
      same = same && (found == first_.arrays.end() || shape_of(found->second) == input.shape);
    }
    if (same) return first_;
    Shapes<int> shapes(inputs);
    const auto known = others_.find(shapes.sizes);
    if (known != others_.end()) return known->second;
    One one;
    Made made;
    check(MXExecutorReshapeEx(0, 1, kCpu, 0, 0, nullptr, nullptr, nullptr, shapes.names.size(),
                              shapes.names.data(), shapes.sizes.data(), shapes.begins.data(),
                              &made.num_arguments, &made.arguments, &made.gradients,
                              &made.num_states, &made.states, first_.handle, &one.handle));
    keep(made, &one);
    fetch(&one);
    return others_.emplace(shapes.sizes, std::move(one)).first->second;
  }

  struct Made {
    uint32_t num_arguments = 0, num_states = 0;
    NDArrayHandle *arguments = nullptr, *gradients = nullptr, *states = nullptr;
  };

  void keep(const Made& made, One* one) const {
    for (uint32_t i = 0; i < made.num_arguments; ++i) {
      one->arrays[arguments_[i]] = made.arguments[i];
    }
    for (uint32_t i = 0; i < made.num_states; ++i) one->arrays[states_[i]] = made.states[i];
  }

  // Outputs before any forward, as mxnet-cpp does.
  void fetch(One* one) const {
    if (early_) fetch_now(one);
  }

  static void fetch_now(One* one) {
    for (NDArrayHandle output : one->outputs) MXNDArrayFree(output);
    one->outputs.clear();
    uint32_t number = 0;
    NDArrayHandle* heads = nullptr;
    check(MXExecutorOutputs(one->handle, &number, &heads));
    one->outputs.assign(heads, heads + number);
  }

  static void free(One* one) {
    for (NDArrayHandle output : one->outputs) MXNDArrayFree(output);
    if (one->handle) MXExecutorFree(one->handle);
    for (const auto& array : one->arrays) MXNDArrayFree(array.second);
  }

  Symbol symbol_;
  bool early_;
  Names arguments_, states_;
  One first_;
  std::map<std::vector<int>, One> others_;
};

class Op : public Bound {
 public:
  Op(const std::string& json, const Arrays& given, bool fixed, bool keeps)
      : symbol_(json), keeps_(keeps) {
    inputs_ = symbol_.names([](SymbolHandle symbol, uint32_t* number, const char*** names) {
      return NNSymbolListInputNames(symbol, 0, number, names);
    });
    for (const auto& one : given) {
      if (one.role != 0) arrays_[one.name] = made_of(one);
    }
    std::string data, parameters;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      auto& list = arrays_.count(inputs_[i]) ? parameters : data;
      list += (list.empty() ? "" : ",") + std::to_string(i);
    }
    data = "[" + data + "]";
    parameters = "[" + parameters + "]";
    const char* flag = fixed ? "1" : "0";
    const char* keys[] = {"data_indices", "param_indices", "static_alloc", "static_shape"};
    const char* values[] = {data.c_str(), parameters.c_str(), flag, flag};
    check(MXCreateCachedOpEx(symbol_.handle, 4, keys, values, &op_));
  }

  ~Op() override {
    if (op_) MXFreeCachedOp(op_);
    for (const auto& array : arrays_) MXNDArrayFree(array.second);
  }

  void run(const Arrays& inputs, Answer* answer) override {
    for (const auto& input : inputs) {
      NDArrayHandle& array = arrays_[input.name];
      if (array && keeps_ && shape_of(array) == input.shape) {
        copy_into(array, input);
        continue;
      }
      if (array) check(MXNDArrayFree(array));
      array = nullptr;
      array = made_of(input);
    }
    std::vector<NDArrayHandle> given;
    for (const auto& name : inputs_) given.push_back(arrays_.at(name));
    int number = 0;
    NDArrayHandle* outputs = nullptr;
    const int* types = nullptr;
    check(MXInvokeCachedOpEx(op_, given.size(), given.data(), &number, &outputs, &types));
    const std::vector<NDArrayHandle> made(outputs, outputs + number);
    answer->number(number);
    for (NDArrayHandle output : made) tell(output, answer);
    for (NDArrayHandle output : made) check(MXNDArrayFree(output));
  }

  void write(const Array& value, uint32_t how) override {
    NDArrayHandle& array = arrays_.at(value.name);
    if (how != kLoad) return write_to(array, value, how);
    NDArrayHandle other = made_of(value);  // another array from now on
    std::swap(array, other);
    check(MXNDArrayFree(other));
  }

 private:
  Symbol symbol_;
  bool keeps_;
  Names inputs_;
  Handles arrays_;
  CachedOpHandle op_ = nullptr;
};

class Predictors : public Bound {
 public:
  Predictors(const std::string& json, const std::string& parameters, const Arrays& given,
             bool typed) {
    Shapes<uint32_t> shapes(given);
    const std::vector<int> types(shapes.names.size(), 0);
    const auto number = static_cast<uint32_t>(shapes.names.size());
    const auto size = static_cast<int>(parameters.size());
    PredictorHandle made = nullptr;
    if (typed) {
      check(MXPredCreateEx(json.c_str(), parameters.data(), size, kCpu, 0, number,
                           shapes.names.data(), shapes.begins.data(), shapes.sizes.data(), number,
                           shapes.names.data(), types.data(), &made));
    } else {
      check(MXPredCreate(json.c_str(), parameters.data(), size, kCpu, 0, number,
                         shapes.names.data(), shapes.begins.data(), shapes.sizes.data(), &made));
    }
    first_ = shapes.sizes;
    predictors_[first_] = made;
  }

  ~Predictors() override {
    for (const auto& one : predictors_) MXPredFree(one.second);
  }

  void run(const Arrays& inputs, Answer* answer) override {
    Shapes<uint32_t> shapes(inputs);
    if (!predictors_.count(shapes.sizes)) {
      PredictorHandle made = nullptr;
      check(MXPredReshape(shapes.names.size(), shapes.names.data(), shapes.begins.data(),
                          shapes.sizes.data(), predictors_.at(first_), &made));
      predictors_[shapes.sizes] = made;
    }
    PredictorHandle predictor = predictors_.at(shapes.sizes);
    for (const auto& input : inputs) {
      const auto* values = reinterpret_cast<const float*>(input.data);
      const std::vector<float> aligned(values, values + input.count);
      check(MXPredSetInput(predictor, input.name.c_str(), aligned.data(), input.count));
    }
    check(MXPredForward(predictor));
    answer->number(number_);
    for (uint32_t i = 0; i < number_; ++i) {
      uint32_t *shape = nullptr, ndim = 0;
      check(MXPredGetOutputShape(predictor, i, &shape, &ndim));
      const std::vector<uint32_t> sizes(shape, shape + ndim);
      size_t count = 1;
      for (uint32_t one : sizes) count *= one;
      std::string data(count * sizeof(float), 0);
      check(MXPredGetOutput(predictor, i, reinterpret_cast<float*>(data.data()), count));
      answer->array(0, sizes, data);
    }
  }

  void write(const Array&, uint32_t) override { throw Failed{"a predictor has no weights"}; }

  void has_outputs(uint32_t number) { number_ = number; }

 private:
  std::vector<uint32_t> first_;
  std::map<std::vector<uint32_t>, PredictorHandle> predictors_;
  uint32_t number_ = 0;
};

// ---- requests -----------------------------------------------------------------------------------

std::map<uint32_t, std::unique_ptr<Bound>> g_bound;

void bind(Request* request) {
  const uint32_t id = request->number(), way = request->number(), flags = request->number();
  const uint32_t heads = request->number();
  const std::string json = request->text(), parameters = request->text();
  const Arrays given = request->arrays();
  const bool one = flags & 1, two = flags & 2;
  std::unique_ptr<Bound> made;
  if (way < 2) {
    made = std::make_unique<Executors>(json, given, way == 1, one);
  } else if (way == 2) {
    made = std::make_unique<Op>(json, given, one, two);
  } else {
    auto predictors = std::make_unique<Predictors>(json, parameters, given, one);
    predictors->has_outputs(heads);
    made = std::move(predictors);
  }
  g_bound[id] = std::move(made);
}

// The first bind, which starts Python.
void begin() {
  SymbolHandle symbol = nullptr;
  ExecutorHandle executor = nullptr;
  check(MXSymbolCreateVariable("x", &symbol));
  const float zero = 0;
  NDArrayHandle array = made_of({"x", 0, 0, {1}, reinterpret_cast<const char*>(&zero), 1}),
                none = nullptr;
  uint32_t request = 0;
  check(MXExecutorBindEX(symbol, kCpu, 0, 0, nullptr, nullptr, nullptr, 1, &array, &none, &request,
                         0, nullptr, nullptr, &executor));
  check(MXExecutorFree(executor));
  check(MXNDArrayFree(array));
  check(MXSymbolFree(symbol));
}

// Runs code in the Python that decides and builds, with which the library came.
void run_python(const std::string& code) {
  const char* path = std::getenv("MXTRT_LIBPYTHON");
  void* python = path ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  if (!python) throw Failed{"the program has no Python"};
  const auto ensure = reinterpret_cast<int (*)()>(dlsym(python, "PyGILState_Ensure"));
  const auto release = reinterpret_cast<void (*)(int)>(dlsym(python, "PyGILState_Release"));
  const auto run = reinterpret_cast<int (*)(const char*)>(dlsym(python, "PyRun_SimpleString"));
  const int state = ensure();
  const int code_of_error = run(code.c_str());
  release(state);
  if (code_of_error) throw Failed{"Python raised an exception"};
}

// How often engines ran.
int64_t runs() {
  const char* path = std::getenv("NODE");
  void* node = path ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  int64_t tally[5] = {0};
  if (node) reinterpret_cast<void (*)(int64_t*)>(dlsym(node, "mxtrt_tally"))(tally);
  return tally[0];
}

void serve(Request* request, Answer* answer) {
  switch (request->number()) {
    case 0: return begin();
    case 1: return run_python(request->text());
    case 2: setenv("USE_TENSORRT", request->number() ? "1" : "0", 1); return;
    case 3: return bind(request);
    case 4: {
      Bound& bound = *g_bound.at(request->number());
      return bound.run(request->arrays(), answer);
    }
    case 5: {
      Bound& bound = *g_bound.at(request->number());
      const uint32_t how = request->number();
      for (const auto& value : request->arrays()) bound.write(value, how);
      return;
    }
    case 6: g_bound.erase(request->number()); return;
    case 7: return answer->number(static_cast<uint32_t>(runs()));
    default: throw Failed{"no such request"};
  }
}

}  // namespace

int main() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int from = dup(0), to = dup(1);
  dup2(2, 1);  // MXNet prints
  for (;;) {
    uint32_t size = 0;
    if (!receive(from, reinterpret_cast<char*>(&size), sizeof size)) break;
    std::string bytes(size, 0);
    if (!receive(from, bytes.data(), size)) break;
    Answer answer;
    answer.number(0);
    try {
      Request request(std::move(bytes));
      serve(&request, &answer);
    } catch (const Failed& failed) {
      answer.bytes.clear();
      answer.number(1);
      answer.bytes += failed.what();
    }
    size = answer.bytes.size();
    if (!send(to, reinterpret_cast<const char*>(&size), sizeof size)) break;
    if (!send(to, answer.bytes.data(), size)) break;
  }
  _exit(0);  // whatever is at work
}
