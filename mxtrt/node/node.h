// What the pieces of the engine node share.
//
// An engine node is one MXNet operator that stands for a segment of the graph.  Python
// creates it, describes it (number and types of inputs and outputs) and adds one *variant*
// per set of input shapes: the output shapes and the session that computes them.  MXNet
// then infers shapes, creates states and runs forwards without entering Python, except
// once for each new set of input shapes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#define MXTRT_EXPORT extern "C" __attribute__((visibility("default")))

namespace mxtrt {

using Shape = std::vector<int64_t>;

// MXNet's type flags, as in mshadow/base.h.
enum class MXType : int { kFloat32, kFloat64, kFloat16, kUint8, kInt32, kInt8, kInt64, kBool };

// One tensor of a forward: memory that MXNet owns.
struct Tensor {
  void* data;
  const int64_t* shape;
  int ndim;
  int type;  // MXType
};

// Throws std::runtime_error for a type or size that MXNet does not have.
size_t bytes(const Tensor& tensor);

class Device;

// What forwards did since the process began; `mxtrt_tally` in extension.cc reads it.
struct Tally {
  std::atomic<int64_t> runs{0};         // runs of sessions
  std::atomic<int64_t> copies{0};       // tensors copied on their way in or out of an engine
  std::atomic<int64_t> copied{0};       // bytes of these
  std::atomic<int64_t> waits{0};        // waits for a stream, an event or an array
  std::atomic<int64_t> allocations{0};  // allocations of memory for tensors

  void copy(size_t bytes) {
    copies.fetch_add(1, std::memory_order_relaxed);
    copied.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  }
};
extern Tally g_tally;

// Memory descriptors of the last forward, kept so that the same addresses need no new ones.
class Bindings {
 public:
  virtual ~Bindings() = default;
};

// An engine that is ready to run.  `run` may be called from several threads at once, each
// with bindings of its own.
class Session {
 public:
  virtual ~Session() = default;
  virtual std::unique_ptr<Bindings> bindings() = 0;
  // Computes the outputs into memory that MXNet allocated; throws std::runtime_error.  With
  // MXNet's CUDA stream it may only put the work there; returns whether the outputs are there.
  virtual bool run(Bindings* bindings, const std::vector<Tensor>& inputs,
                   const std::vector<Tensor>& outputs, void* stream) = 0;
  // The GPU on whose stream a run is put when its arrays are there; null for a session that is
  // done when `run` returns.
  virtual Device* device() { return nullptr; }
};

// Output arrays of earlier runs, to be used again when nobody else holds them: what runs in a
// steady state allocates nothing.
class Spares {
 public:
  ~Spares();
  // Appends handles of a set of arrays that nobody holds; false if there is none.
  bool take(std::vector<void*>* arrays);
  // Keeps a set of arrays that are in use now, and take so many bytes.
  void offer(const std::vector<void*>& arrays, size_t bytes);
  // Keeps none.
  void clear();
  // Bytes of the spares of the process, whoever holds them too.
  static int64_t held();

 private:
  std::mutex mutex_;
  std::vector<std::vector<void*>> sets_;
  size_t bytes_ = 0;
};

// One set of input shapes of a node.
struct Variant {
  std::vector<Shape> inputs, outputs;
  std::shared_ptr<Session> session;                // null until the engine is built
  mutable std::atomic<int64_t> nanoseconds{-1};  // of the last whole run, -1 before the first
  mutable std::atomic<int64_t> last_use{0};      // by the node's count of them
  mutable Spares spares;

  // Runs the session and notes how long it took.
  void run(Bindings* bindings, const std::vector<Tensor>& in, const std::vector<Tensor>& out,
           void* stream) const;
};

// A node of a partitioned graph, found by the key in its `engine` attribute.
class Node {
 public:
  Node(std::vector<int> input_types, std::vector<int> output_types, int gpu)
      : input_types(std::move(input_types)), output_types(std::move(output_types)), gpu(gpu) {}

  // Throws std::runtime_error when MXNet sees another operator in a node than Python made.
  void check_counts(int64_t inputs, int64_t outputs) const;

  const std::vector<int> input_types, output_types;
  const int gpu;  // the GPU that its tensors are on, -1 for host memory
  int64_t key = 0;
  std::string name;  // for people
  std::atomic<bool> retired{false};  // its engines failed and run no more

  // The variant for these input shapes, or null.
  std::shared_ptr<const Variant> find(const std::vector<Shape>& inputs) const;
  // Adds or replaces the variant for its input shapes.
  void put(std::shared_ptr<const Variant> variant);
  // Forgets the variant for these input shapes, which operator states may run that have it.
  void drop(const std::vector<Shape>& inputs);
  // When the variant for these input shapes was used last, by a count of uses; -1 for one that
  // operator states were made for, or that does not exist.
  int64_t last_use(const std::vector<Shape>& inputs) const;
  // Gives up spares of the variants that were used least lately, where those of this variant are
  // to take so many bytes more.
  void make_room(const std::shared_ptr<const Variant>& variant, size_t bytes);
  // Operator states that were made for these input shapes: their engine must not be given up.
  void enter(const std::vector<Shape>& inputs);
  void leave(const std::vector<Shape>& inputs);
  int users(const std::vector<Shape>& inputs) const;
  // Changes whenever a variant is added or replaced, so that states know to look again.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

 private:
  mutable std::mutex mutex_;
  std::map<std::vector<Shape>, std::shared_ptr<const Variant>> variants_;
  std::map<std::vector<Shape>, int> users_;
  mutable int64_t uses_ = 0;
  std::mutex spared_mutex_;
  std::vector<std::weak_ptr<const Variant>> spared_;  // that have spares
  std::atomic<uint64_t> generation_{0};
};

// Nodes by key; null when the key is unknown.
std::shared_ptr<Node> find_node(int64_t key);

// Sessions by handle; null when the handle is unknown.
std::shared_ptr<Session> find_session(int64_t handle);
int64_t add_session(std::shared_ptr<Session> session);

// Has MXNet's operators compute the outputs of a node, or throws.  `stream` is the one on which
// MXNet, or the node itself, works on the GPU of these tensors.
void take_over(int64_t key, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
               const std::string& message, void* stream);

// Tells Python that the engine of a node failed.
void report_failure(int64_t key, const std::string& message);

// Says that engines have threads in this process from now on, ONNX Runtime's or CUDA's.
void threads_begin();

// True in a process forked from one in which engines had threads, which do not exist here.
bool forked();

// Holds a mutex.  Not in a forked process, where whoever held it at the fork may be missing, and
// nothing changes any more what it guards.
class Lock {
 public:
  explicit Lock(std::mutex& mutex) : lock_(mutex, std::defer_lock) {
    if (!forked()) lock_.lock();
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

// True once Python has begun to exit: nothing is released any more.
bool shutting_down();

// The message of the last failure on this thread; MXNet fetches it once.
void set_error(const std::string& message);
// The message, then forgotten, or another sentence when there is none.
std::string take_error(const char* otherwise);

// Runs a body for a C caller: 1, or 0 after keeping the message of what it threw.
template <typename Body>
int guarded(Body body) {
  try {
    body();
    return 1;
  } catch (const std::exception& error) {
    set_error(error.what());
  } catch (...) {
    set_error("unknown C++ exception");
  }
  return 0;
}

}  // namespace mxtrt
