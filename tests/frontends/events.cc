// A program to which something happens while it has engines:
// events WHAT MODEL.json MODEL.params OUT
// WHAT is fork, signals, exit-thread, exit-busy, retired, monitor, backward, state, hook, writes,
// training or optimize.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "client.h"

namespace {

// A network with inputs of its own.
class Network {
 public:
  Network(Model* model, SymbolHandle symbol, bool trains = false) {
    for (const auto& name : model->arguments) {
      arguments_.push_back(name == "data" ? empty({kFewest, 3, 16, 16})
                                          : model->parameters.at(name));
      gradients_.push_back(trains ? like(arguments_.back()) : nullptr);
      if (name == "data") data_ = arguments_.back();
    }
    std::vector<NDArrayHandle> states;
    for (const auto& name : model->states) states.push_back(model->parameters.at(name));
    std::vector<uint32_t> requests(arguments_.size(), trains ? 1 : 0);
    check(MXExecutorBindX(symbol, 1, 0, 0, nullptr, nullptr, nullptr, arguments_.size(),
                          arguments_.data(), gradients_.data(), requests.data(), states.size(),
                          states.data(), &executor));
  }

  void ask(float offset, Answers* answers) {
    fill(data_, offset);
    check(MXExecutorForward(executor, 0));
    read(answers);
  }

  void read(Answers* answers) {
    for (NDArrayHandle output : outputs_of(executor)) take(output, answers);
  }

  void train(Answers* answers) {
    fill(data_, 0.3f);
    check(MXExecutorForward(executor, 1));
    std::vector<NDArrayHandle> ones;
    for (NDArrayHandle output : outputs_of(executor)) ones.push_back(like(output));
    for (NDArrayHandle one : ones) fill(one, 1);
    check(MXExecutorBackward(executor, ones.size(), ones.data()));
    for (NDArrayHandle gradient : gradients_) take(gradient, answers);
  }

  ExecutorHandle executor = nullptr;

 private:
  std::vector<NDArrayHandle> arguments_, gradients_;
  NDArrayHandle data_ = nullptr;
};

constexpr int kCalls = 4;
std::atomic<int> signals_seen{0}, operators_seen{0};

void on_signal(int) { ++signals_seen; }

void see(const char*, NDArrayHandle, void*) { ++operators_seen; }

// A call of a CachedOp of the model, its operators seen.
void with_hook(Model* model, Answers* answers) {
  CachedOpHandle op = nullptr;
  check(MXCreateCachedOp(model->symbol, &op));
  const auto list = [](SymbolHandle symbol, uint32_t* number, const char*** names) {
    return NNSymbolListInputNames(symbol, 0, number, names);
  };
  std::vector<NDArrayHandle> inputs;
  for (const auto& name : names_of(model->symbol, list)) {
    inputs.push_back(name == "data" ? empty({kFewest, 3, 16, 16}) : model->parameters.at(name));
    if (name == "data") fill(inputs.back(), 0.5f);
  }
  const auto call = [&] {
    int number = 0;
    NDArrayHandle* outputs = nullptr;
    check(MXInvokeCachedOp(op, inputs.size(), inputs.data(), &number, &outputs));
    const std::vector<NDArrayHandle> made(outputs, outputs + number);
    for (NDArrayHandle one : made) take(one, answers);
  };
  call();
  call();
  for (size_t given : {size_t{0}, inputs.size() - 1}) {  // MXNet's error
    int number = 0;
    NDArrayHandle* outputs = nullptr;
    if (!MXInvokeCachedOp(op, static_cast<int>(given), inputs.data(), &number, &outputs) ||
        !std::strstr(MXGetLastError(), "num_inputs()")) {
      std::exit(6);
    }
  }
  check(MXCachedOpRegisterOpHook(
      op, [](const char*, const char*, NDArrayHandle) { ++operators_seen; }, true));
  call();
  check(MXFreeCachedOp(op));
}

// Calls of a CachedOp with static memory, before and after steps of training: MXNet does not count
// their writes to running means.
void with_training(Model* model, Answers* answers) {
  const char* keys[] = {"static_alloc", "static_shape"};
  const char* values[] = {"1", "1"};
  CachedOpHandle op = nullptr;
  check(MXCreateCachedOpEx(model->symbol, 2, keys, values, &op));
  const auto list = [](SymbolHandle symbol, uint32_t* number, const char*** names) {
    return NNSymbolListInputNames(symbol, 0, number, names);
  };
  std::vector<NDArrayHandle> inputs;
  NDArrayHandle data = nullptr, weight = nullptr;
  for (const auto& name : names_of(model->symbol, list)) {
    inputs.push_back(name == "data" ? empty({kFewest, 3, 16, 16}) : model->parameters.at(name));
    if (name == "data") data = inputs.back();
    if (name == "top_bias") weight = inputs.back();
  }
  NDArrayHandle gradient = like(weight);
  uint32_t request = 1;
  check(MXAutogradMarkVariables(1, &weight, &request, &gradient));
  const auto call = [&](float offset) {
    fill(data, offset);
    int number = 0;
    NDArrayHandle* outputs = nullptr;
    check(MXInvokeCachedOp(op, inputs.size(), inputs.data(), &number, &outputs));
    return std::vector<NDArrayHandle>(outputs, outputs + number);
  };
  for (int step = 0; step < 3; ++step) {
    for (int i = 0; i < 3; ++i) take(call(0.1f * i)[0], answers);
    int before = 0;
    check(MXAutogradSetIsRecording(1, &before));
    check(MXAutogradSetIsTraining(1, &before));
    NDArrayHandle made = call(0.7f)[0];
    check(MXAutogradSetIsTraining(0, &before));
    check(MXAutogradSetIsRecording(0, &before));
    if (step) check(MXAutogradBackward(1, &made, nullptr, 0));
    take(call(0.4f)[0], answers);
  }
  check(MXFreeCachedOp(op));
}

// The model as the pass for this backend leaves it; the model itself where MXNet has no such pass.
SymbolHandle optimized(Model* model, const char* precision) {
  const char *key = "precision", *name = "data";
  const int64_t sizes[] = {kFewest, 3, 16, 16};
  const uint32_t begins[] = {0, 4};
  int new_arguments = 0, new_states = 0;
  NDArrayHandle *arguments = nullptr, *states = nullptr;
  char **argument_names = nullptr, **state_names = nullptr;
  SymbolHandle made = nullptr;
  if (MXOptimizeForBackend(model->symbol, "TensorRT", 1, &made, 0, nullptr, 0, nullptr, 1, &key,
                           &precision, 1, &name, sizes, begins, 0, nullptr, nullptr, 0, nullptr,
                           nullptr, false, &new_arguments, &arguments, &argument_names, &new_states,
                           &states, &state_names)) {
    std::fprintf(stderr, "refused: %s\n", MXGetLastError());
    return model->symbol;
  }
  return made;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  const std::string what = argv[1];
  if (what == "signals") {
    struct sigaction action{};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    for (int number : {SIGINT, SIGTERM, SIGUSR1, SIGCHLD, SIGPIPE}) {
      sigaction(number, &action, nullptr);
    }
  }
  Model model(argv[2], argv[3]);
  Answers answers;
  SymbolHandle symbol = model.symbol;
  if (what == "optimize") {
    optimized(&model, "nonsense");
    symbol = optimized(&model, "fp16");
  }
  Network network(&model, symbol);
  for (int i = 0; i < kCalls; ++i) network.ask(0.1f * i, &answers);
  const int before = runs();

  if (what == "fork") {
    std::fflush(nullptr);
    const pid_t child = fork();
    if (!child) {
      Answers of_child;
      network.ask(0.7f, &of_child);
      Network another(&model, model.symbol);
      another.ask(0.8f, &of_child);
      FILE* out = std::fopen((std::string(argv[4]) + ".child").c_str(), "wb");
      std::fwrite(of_child.data(), sizeof(float), of_child.size(), out);
      std::fclose(out);
      std::exit(3);
    }
    int status = 0;
    waitpid(child, &status, 0);
    std::fprintf(stderr, "child %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -status);
    for (int i = 0; i < kCalls; ++i) network.ask(0.1f * i, &answers);
    std::fprintf(stderr, "more %d\n", runs() - before);
  } else if (what == "signals") {
    const int sent = 200;
    for (int i = 0; i < sent; ++i) {
      kill(getpid(), i % 2 ? SIGINT : SIGTERM);  // to whichever thread takes it
      if (i % 20 == 0) network.ask(0.1f, &answers);
    }
    struct sigaction found{};
    bool kept = true;
    for (int number : {SIGINT, SIGTERM, SIGUSR1, SIGCHLD, SIGPIPE}) {
      sigaction(number, nullptr, &found);
      kept = kept && found.sa_handler == on_signal;
    }
    std::fprintf(stderr, "signals %d kept %d\n", signals_seen > 0, kept);
  } else if (what == "retired") {
    const auto retire =
        node() ? reinterpret_cast<void (*)(int64_t)>(dlsym(node(), "mxtrt_retire")) : nullptr;
    for (int64_t key = 0; retire && key < 100; ++key) retire(key);
    for (int i = 0; i < kCalls; ++i) network.ask(0.2f * i, &answers);
  } else if (what == "monitor") {
    check(MXExecutorSetMonitorCallback(network.executor, see, nullptr));
    for (int i = 0; i < kCalls; ++i) network.ask(0.2f * i, &answers);
    std::fprintf(stderr, "operators %d more %d\n", operators_seen > kCalls, runs() - before);
  } else if (what == "backward") {
    Network trained(&model, model.symbol, true);
    trained.train(&answers);
    trained.ask(0.4f, &answers);
  } else if (what == "state") {
    struct sigaction found{};
    sigaction(SIGINT, nullptr, &found);
    std::fprintf(stderr, "default %d locale %d\n", found.sa_handler == SIG_DFL,
                 std::string(std::setlocale(LC_ALL, nullptr)) == "C");
  } else if (what == "writes") {
    NDArrayHandle weight = model.parameters.at("top_bias");
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    for (int i = 0; i < 500; ++i) {
      fill(weight, 0.01f * static_cast<float>(i));
      network.ask(0.1f, &answers);
    }
    const std::chrono::duration<double, std::micro> passed = Clock::now() - begin;
    std::fprintf(stderr, "a write and a forward: %.0f us\n", passed.count() / 500);
    const auto until = Clock::now() + std::chrono::seconds(60);
    const int told = runs();
    while (node() && runs() == told && Clock::now() < until) {
      Answers ignored;
      network.ask(0.1f, &ignored);
    }
    network.ask(0.2f, &answers);
    std::fprintf(stderr, "more %d\n", runs() - told);
  } else if (what == "training") {
    with_training(&model, &answers);
  } else if (what == "hook") {
    with_hook(&model, &answers);
    std::fprintf(stderr, "operators %d\n", operators_seen > 1);
  }
  tell_runs();
  FILE* out = std::fopen(argv[4], "wb");
  std::fwrite(answers.data(), sizeof(float), answers.size(), out);
  std::fclose(out);
  if (what == "exit-thread") std::thread([] { std::exit(0); }).join();
  if (what == "exit-busy") {
    std::vector<std::thread> threads;
    std::atomic<int> begun{0};
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] {
        Model mine(argv[2], argv[3]);
        Network busy(&mine, mine.symbol);
        Answers ignored;
        for (;;) {
          ignored.clear();
          busy.ask(0.5f, &ignored);
          ++begun;
        }
      });
    }
    while (begun < 50) std::this_thread::yield();
    std::quick_exit(0);  // MXNet itself crashes in exit() while it computes
  }
  check(MXNotifyShutdown());
  return 0;
}
