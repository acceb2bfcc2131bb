#include "python.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <clocale>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "real.h"

namespace mxtrt {
namespace {

std::atomic<bool> g_ended{false};  // in a forked child, whose interpreter has no thread

using ThreadState = void* (*)();
std::atomic<ThreadState> g_thread_state{nullptr};

template <typename Function>
Function function_of(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

// Text as a Python string in quotes.
std::string quoted(const std::string& text) {
  std::string made = "'";
  for (char c : text) {
    if (c == '\'' || c == '\\') made += '\\';
    made += c;
  }
  return made + "'";
}

// What Python changes of the process as it starts, and the program has as it was.
class Kept {
 public:
  Kept() { sigaction(SIGINT, nullptr, &interrupt_); }
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept() {
    sigaction(SIGINT, &interrupt_, nullptr);
    std::setlocale(LC_CTYPE, locale_.c_str());
  }

 private:
  struct sigaction interrupt_{};
  const std::string locale_ = std::setlocale(LC_CTYPE, nullptr);
};

class Interpreter {
 public:
  bool start() {
    std::call_once(once_, [this] {
      pthread_atfork(nullptr, nullptr, [] { g_ended = true; });
      // Signals are for the program's own threads.
      sigset_t all, before;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
      std::thread([this] { live(); }).detach();
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return begun_; });
    });
    return works_;
  }

  void run(const std::function<void()>& body) {
    bool done = false;
    std::unique_lock<std::mutex> lock(mutex_);
    tasks_.push_back({&body, &done});
    changed_.notify_all();
    changed_.wait(lock, [&] { return done; });
  }

 private:
  struct Task {
    const std::function<void()>* body;
    bool* done;
  };

  void live() {
    const bool works = boot();
    std::unique_lock<std::mutex> lock(mutex_);
    works_ = works;
    begun_ = true;
    changed_.notify_all();
    for (;;) {
      changed_.wait(lock, [this] { return !tasks_.empty(); });
      const Task task = tasks_.front();
      tasks_.pop_front();
      lock.unlock();
      (*task.body)();
      lock.lock();
      *task.done = true;
      changed_.notify_all();
    }
  }

  static bool boot() {
    const char* path = std::getenv("MXTRT_LIBPYTHON");
    const char* program = std::getenv("MXTRT_PYTHON");
    if (!path || !*path || !program || !*program) {
      std::fprintf(stderr,
                   "mxtrt: MXTRT_LIBPYTHON and MXTRT_PYTHON are not set, so graphs run as plain "
                   "MXNet; set what `mxtrt env` prints\n");
      return false;
    }
    void* python = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!python) {
      std::fprintf(stderr, "mxtrt: there is no Python, so graphs run as plain MXNet: %s\n",
                   dlerror());
      return false;
    }
    const Kept kept;
    // Kept by Python; a path of any bytes is decoded, and encoded again, by the user's locale.
    std::setlocale(LC_CTYPE, "");
    const wchar_t* name = function_of<wchar_t* (*)(const char*, size_t*)>(
        python, "Py_DecodeLocale")(program, nullptr);
    function_of<void (*)(const wchar_t*)>(python, "Py_SetProgramName")(name);
    function_of<void (*)(int)>(python, "Py_InitializeEx")(0);  // without signal handlers
    g_thread_state = function_of<ThreadState>(python, "PyGILState_GetThisThreadState");
    const std::string code =
        "def begin():\n"
        "    import signal, sys\n"  // which takes SIGINT: here, and not later
        "    try:\n"
        "        from mxtrt.frontends.embedded import install\n"
        "        install(" +
        quoted(own_path()) + ", " + quoted(real_path()) +
        ")\n"
        "    except BaseException as error:\n"
        "        print('mxtrt: graphs run as plain MXNet: '\n"
        "              f'{type(error).__name__}: {error}', file=sys.stderr, flush=True)\n"
        "begin()\n";
    function_of<int (*)(const char*)>(python, "PyRun_SimpleString")(code.c_str());
    function_of<void* (*)()>(python, "PyEval_SaveThread")();
    return installed();
  }

  std::once_flag once_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool begun_ = false, works_ = false;
};

// Never destroyed: its thread lives until the process ends.
Interpreter& interpreter() {
  static auto* one = new Interpreter;
  return *one;
}

// Whether the program itself is Python, whose hooks do what is to be done.
bool is_python_program() {
  static const bool is = [] {
    const auto initialized = function_of<int (*)()>(RTLD_DEFAULT, "Py_IsInitialized");
    return initialized && initialized();
  }();
  return is;
}

}  // namespace

bool in_python() {
  const auto state = g_thread_state.load(std::memory_order_relaxed);
  return state && state();
}

bool is_forked_child() { return g_ended; }

bool python_is_there() {
  return !g_ended && !is_python_program() && interpreter().start() && !g_ended;
}

void in_interpreter(const std::function<void()>& body) { interpreter().run(body); }

}  // namespace mxtrt
