// A program on MXNet's executors and CachedOps: bind WAY MODEL.json MODEL.params OUT THREADS
// WAY is bind, simple, simple-ex, simple-first, reshape, reshape-first, cached, cached-first or
// cached-safe: names of the calls' variants.  Each thread has a network of its own; what they
// compute is appended to OUT, thread after thread: some forwards, with other weights after the
// first ones.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "client.h"

namespace {

bool times = false;

// The median time of a forward and a copy of its outputs, in microseconds, on standard error.
template <typename Forward>
void time_it(const Forward& forward) {
  std::vector<double> seen;
  for (int i = 0; i < 3000; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    forward();
    const std::chrono::duration<double, std::micro> passed =
        std::chrono::steady_clock::now() - begin;
    seen.push_back(passed.count());
  }
  std::sort(seen.begin(), seen.end());
  std::fprintf(stderr, "p10 %.1f us, median %.1f us\n", seen[300], seen[1500]);
}

Answers with_executor(const std::string& way, Model& model) {
  const std::vector<uint32_t> shape{kFewest, 3, 16, 16};
  std::vector<NDArrayHandle> arguments, states;
  ExecutorHandle executor = nullptr;
  if (way == "bind") {
    for (const auto& name : model.arguments) {
      arguments.push_back(name == "data" ? empty(shape) : model.parameters.at(name));
    }
    for (const auto& name : model.states) states.push_back(model.parameters.at(name));
    std::vector<NDArrayHandle> none(arguments.size());
    std::vector<uint32_t> requests(arguments.size());
    check(MXExecutorBind(model.symbol, 1, 0, arguments.size(), arguments.data(), none.data(),
                         requests.data(), states.size(), states.data(), &executor));
  } else {
    const char *data = "data", *request = "null";
    const uint32_t begins[] = {0, 4};
    int buffer = -1;
    const char** buffer_names = nullptr;
    NDArrayHandle *buffer_arrays = nullptr, *made = nullptr, *gradients = nullptr, *aux = nullptr;
    uint32_t num_made = 0, num_aux = 0;
    const auto simple_bind = [&](const auto& call, const auto& sizes) {
      check(call(model.symbol, 1, 0, 0, nullptr, nullptr, nullptr, 0, nullptr, &request, 1, &data,
                 sizes, begins, 0, nullptr, nullptr, 0, nullptr, nullptr, 0, nullptr, &buffer,
                 nullptr, nullptr, &buffer_names, &buffer_arrays, &num_made, &made, &gradients,
                 &num_aux, &aux, nullptr, &executor));
    };
    if (way == "simple-ex") {
      const int sizes[] = {kFewest, 3, 16, 16};
      simple_bind(MXExecutorSimpleBindEx, sizes);
    } else if (way == "simple-first") {
      const uint32_t sizes[] = {kFewest, 3, 16, 16};
      simple_bind(MXExecutorSimpleBind, sizes);
    } else {
      const int64_t sizes[] = {kFewest, 3, 16, 16};
      simple_bind(MXExecutorSimpleBindEx64, sizes);
    }
    arguments.assign(made, made + num_made);
    states.assign(aux, aux + num_aux);
  }
  // As mxnet-cpp does: outputs before any forward.
  std::vector<NDArrayHandle> outputs = outputs_of(executor);
  NDArrayHandle data = nullptr, weight = nullptr;
  const auto copied = [](NDArrayHandle from, NDArrayHandle to) {
    std::vector<float> values(size_of(from));
    check(MXNDArraySyncCopyToCPU(from, values.data(), values.size()));
    check(MXNDArraySyncCopyFromCPU(to, values.data(), values.size()));
  };
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto& name = model.arguments[i];
    if (name == "data") {
      data = arguments[i];
    } else {
      if (way != "bind") copied(model.parameters.at(name), arguments[i]);
      weight = arguments[i];
    }
  }
  for (size_t i = 0; way != "bind" && i < states.size(); ++i) {
    copied(model.parameters.at(model.states[i]), states[i]);
  }
  Answers answers;
  const auto ask = [&](float offset) {
    fill(data, offset);
    check(MXExecutorForward(executor, 0));
    for (NDArrayHandle output : outputs) take(output, &answers);
  };
  for (int i = 0; i < 4; ++i) ask(0.1f * i);
  if (times) {
    time_it([&] {
      check(MXExecutorForward(executor, 0));
      check(MXNDArrayWaitToRead(outputs[0]));
    });
  }
  scale(weight, 3);
  for (int i = 0; i < 4; ++i) ask(0.1f * i);
  check(MXExecutorForward(executor, 1));
  take(outputs[0], &answers);
  if (way.rfind("reshape", 0) == 0) {
    const char* name = "data";
    const uint32_t begins[] = {0, 4};
    uint32_t num_made = 0, num_aux = 0;
    NDArrayHandle *made = nullptr, *gradients = nullptr, *aux = nullptr;
    ExecutorHandle larger = nullptr;
    const auto reshape = [&](const auto& call, const auto& sizes) {
      check(call(0, 1, 1, 0, 0, nullptr, nullptr, nullptr, 1, &name, sizes, begins, &num_made,
                 &made, &gradients, &num_aux, &aux, executor, &larger));
    };
    if (way == "reshape-first") {
      const uint32_t sizes[] = {kMost, 3, 16, 16};
      reshape(MXExecutorReshape, sizes);
    } else {
      const int sizes[] = {kMost, 3, 16, 16};
      reshape(MXExecutorReshapeEx, sizes);
    }
    for (uint32_t i = 0; i < num_made; ++i) {
      if (model.arguments[i] == "data") data = made[i];
    }
    outputs = outputs_of(larger);
    std::swap(executor, larger);
    for (int i = 0; i < 4; ++i) ask(0.1f * i);
    check(MXExecutorFree(larger));
  }
  check(MXExecutorFree(executor));
  return answers;
}

Answers with_cached_op(const std::string& way, Model& model) {
  const auto list = [](SymbolHandle symbol, uint32_t* number, const char*** names) {
    return NNSymbolListInputNames(symbol, 0, number, names);
  };
  const Names inputs = names_of(model.symbol, list);
  std::string data = "[", parameters = "[";
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto& list = inputs[i] == "data" ? data : parameters;
    list += (list.size() > 1 ? "," : "") + std::to_string(i);
  }
  data += "]";
  parameters += "]";
  const char* keys[] = {"data_indices", "param_indices", "static_alloc", "static_shape"};
  const char* values[] = {data.c_str(), parameters.c_str(), "1", "1"};
  CachedOpHandle op = nullptr;
  if (way == "cached-first") {
    check(MXCreateCachedOp(model.symbol, &op));
  } else if (way == "cached-safe") {
    check(MXCreateCachedOpEX(model.symbol, 2, keys, values, &op, true));
  } else {
    check(MXCreateCachedOpEx(model.symbol, 4, keys, values, &op));
  }
  Answers answers;
  std::vector<NDArrayHandle> given;
  NDArrayHandle weight = nullptr;
  size_t place = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] == "data") place = i;
    given.push_back(inputs[i] == "data" ? nullptr : model.parameters.at(inputs[i]));
    if (given.back() && inputs[i].find("weight") != std::string::npos) weight = given.back();
  }
  const auto ask = [&](uint32_t batch, float offset) {
    given[place] = empty({batch, 3, 16, 16});
    fill(given[place], offset);
    int number = 0;
    NDArrayHandle* outputs = nullptr;
    const int* types = nullptr;
    check(MXInvokeCachedOpEx(op, given.size(), given.data(), &number, &outputs, &types));
    for (int i = 0; i < number; ++i) {
      take(outputs[i], &answers);
      if (types[i]) std::exit(5);
      check(MXNDArrayFree(outputs[i]));
    }
    check(MXNDArrayFree(given[place]));
  };
  for (int i = 0; i < 4; ++i) ask(kFewest, 0.1f * i);
  if (times) {
    given[place] = empty({kFewest, 3, 16, 16});
    fill(given[place], 0);
    time_it([&] {
      int number = 0;
      NDArrayHandle* outputs = nullptr;
      const int* types = nullptr;
      check(MXInvokeCachedOpEx(op, given.size(), given.data(), &number, &outputs, &types));
      check(MXNDArrayWaitToRead(outputs[0]));
      for (int i = 0; i < number; ++i) check(MXNDArrayFree(outputs[i]));
    });
  }
  scale(weight, 3);
  for (int i = 0; i < 4; ++i) ask(kFewest, 0.1f * i);
  for (int i = 0; i < 4; ++i) ask(i % 2 ? kMost : kFewest, 0.1f * i);
  check(MXFreeCachedOp(op));
  return answers;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) return 2;
  const std::string way = argv[1];
  std::vector<Answers> answers(std::atoi(argv[5]));
  // MXNet crashes now and then where several threads are the first to use an operator.
  if (answers.size() > 1) {
    Model model(argv[2], argv[3]);
    with_executor("bind", model);
  }
  times = argc > 6;
  std::vector<std::thread> threads;
  for (auto& one : answers) {
    threads.emplace_back([&] {
      Model model(argv[2], argv[3]);
      one = way.rfind("cached", 0) == 0 ? with_cached_op(way, model) : with_executor(way, model);
    });
  }
  for (auto& thread : threads) thread.join();
  tell_runs();
  FILE* out = std::fopen(argv[4], "wb");
  for (const auto& one : answers) std::fwrite(one.data(), sizeof(float), one.size(), out);
  std::fclose(out);
  check(MXNotifyShutdown());
  return 0;
}
