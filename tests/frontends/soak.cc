// A program that is asked for a while: soak MODEL.json MODEL.params SECONDS THREADS
// Each thread has a network of its own and binds it again and again, as an executor and a CachedOp.
// Batch sizes and weights change.  Every answer is compared with that of an executor on the same
// arrays that is bound for gradients, which is plain MXNet.
// Tells on standard error how many there were, and the memory at the beginning and the end.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "client.h"

namespace {

std::atomic<int> calls{0}, wrong{0};

long resident_mib() {
  std::ifstream file("/proc/self/statm");
  long size = 0, resident = 0;
  file >> size >> resident;
  return resident * 4096 / (1 << 20);
}

// The arrays of a model at a batch size, in the order of its arguments.
struct Arrays {
  std::vector<NDArrayHandle> arguments, states;
  NDArrayHandle data = nullptr, weight = nullptr;

  Arrays(const Model& model, uint32_t batch) {
    for (const auto& name : model.arguments) {
      if (name == "data") {
        data = empty({batch, 3, 16, 16});
        arguments.push_back(data);
      } else {
        arguments.push_back(model.parameters.at(name));
        weight = arguments.back();
      }
    }
    for (const auto& name : model.states) states.push_back(model.parameters.at(name));
  }
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;
  ~Arrays() { check(MXNDArrayFree(data)); }
};

class Executor {
 public:
  Executor(const Model& model, Arrays* arrays, bool plain) {
    std::vector<NDArrayHandle> gradients(arrays->arguments.size());
    std::vector<uint32_t> requests(arrays->arguments.size());
    if (plain) {  // one gradient leaves all to MXNet
      gradient_ = like(arrays->weight);
      const auto place =
          std::find(arrays->arguments.begin(), arrays->arguments.end(), arrays->weight);
      gradients[place - arrays->arguments.begin()] = gradient_;
      requests[place - arrays->arguments.begin()] = 1;
    }
    check(MXExecutorBindEX(model.symbol, 1, 0, 0, nullptr, nullptr, nullptr,
                           arrays->arguments.size(), arrays->arguments.data(), gradients.data(),
                           requests.data(), arrays->states.size(), arrays->states.data(), nullptr,
                           &handle_));
  }
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  ~Executor() {
    check(MXExecutorFree(handle_));
    if (gradient_) check(MXNDArrayFree(gradient_));
  }

  Answers ask() {
    check(MXExecutorForward(handle_, 0));
    Answers answers;
    for (NDArrayHandle output : outputs_of(handle_)) {
      take(output, &answers);
      check(MXNDArrayFree(output));
    }
    return answers;
  }

 private:
  ExecutorHandle handle_ = nullptr;
  NDArrayHandle gradient_ = nullptr;
};

Answers invoke(CachedOpHandle op, const Names& names, const Model& model, NDArrayHandle data) {
  std::vector<NDArrayHandle> inputs;
  for (const auto& name : names) {
    inputs.push_back(name == "data" ? data : model.parameters.at(name));
  }
  int number = 0;
  NDArrayHandle* outputs = nullptr;
  check(MXInvokeCachedOp(op, inputs.size(), inputs.data(), &number, &outputs));
  const std::vector<NDArrayHandle> made(outputs, outputs + number);
  Answers answers;
  for (NDArrayHandle output : made) {
    take(output, &answers);
    check(MXNDArrayFree(output));
  }
  return answers;
}

void compare(const Answers& ours, const Answers& plain) {
  ++calls;
  bool right = ours.size() == plain.size();
  for (size_t i = 0; right && i < ours.size(); ++i) {
    right = std::abs(ours[i] - plain[i]) <= 1e-5f + 1e-4f * std::abs(plain[i]);
  }
  if (!right) ++wrong;
}

void serve(const char* json, const char* file, unsigned seed,
           std::chrono::steady_clock::time_point end) {
  std::mt19937 random(seed);
  Model model(json, file);
  const auto list = [](SymbolHandle symbol, uint32_t* number, const char*** names) {
    return NNSymbolListInputNames(symbol, 0, number, names);
  };
  const Names inputs = names_of(model.symbol, list);
  while (std::chrono::steady_clock::now() < end) {
    Arrays arrays(model, kFewest + random() % 4);
    Executor plain(model, &arrays, true);
    Executor ours(model, &arrays, false);
    CachedOpHandle op = nullptr;
    check(MXCreateCachedOp(model.symbol, &op));
    const int turns = 5 + static_cast<int>(random() % 60);
    for (int turn = 0; turn < turns; ++turn) {
      fill(arrays.data, 0.01f * static_cast<float>(random() % 100));
      if (random() % 20 == 0) scale(arrays.weight, random() % 2 ? 2 : 0.5f);
      const Answers expected = plain.ask();
      compare(random() % 2 ? ours.ask() : invoke(op, inputs, model, arrays.data), expected);
    }
    check(MXFreeCachedOp(op));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  const auto begin = std::chrono::steady_clock::now();
  const std::chrono::seconds length(std::atoi(argv[3]));
  {  // MXNet crashes now and then where several threads are the first to use an operator
    Model model(argv[1], argv[2]);
    Arrays arrays(model, kFewest);
    Executor(model, &arrays, true).ask();
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < std::atoi(argv[4]); ++i) {
    threads.emplace_back([&, i] { serve(argv[1], argv[2], i, begin + length); });
  }
  for (int part = 1; part <= 10; ++part) {
    std::this_thread::sleep_until(begin + length * part / 10);
    std::fprintf(stderr, "%d%%: calls %d runs %d wrong %d resident %ld MiB\n", 10 * part,
                 calls.load(), runs(), wrong.load(), resident_mib());
  }
  for (auto& thread : threads) thread.join();
  tell_runs();
  std::fprintf(stderr, "wrong %d\n", wrong.load());
  check(MXNotifyShutdown());
  return 0;
}
