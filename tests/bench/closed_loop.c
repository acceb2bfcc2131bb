// The closed loop of mxtrt/perf/load.py without Python: threads that launch CUDA graphs and wait
// for them, so that a bare engine's throughput is not that of the interpreter's lock.
//
// NVIDIA's headers are not needed: three functions of the driver are looked up by name.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

// What one thread launches: a recorded run, on its own stream.
typedef struct {
  void *context, *executable, *stream;
} Recorded;

enum { kNoDriver = -1, kNoThread = -2 };

typedef struct {
  int (*set_context)(void*);
  int (*launch)(void*, void*);
  int (*wait)(void*);
  pthread_mutex_t gate;  // held until all threads are there
  atomic_long ticket;
  atomic_int failure;
  long requests;
  int64_t *begins, *ends;
} Shared;

typedef struct {
  Shared* shared;
  const Recorded* recorded;
  pthread_t thread;
} Worker;

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void* work(void* argument) {
  const Worker* worker = argument;
  const Recorded* recorded = worker->recorded;
  Shared* shared = worker->shared;
  int code = shared->set_context(recorded->context);
  pthread_mutex_lock(&shared->gate);
  pthread_mutex_unlock(&shared->gate);
  while (!code && !atomic_load(&shared->failure)) {
    const long ticket = atomic_fetch_add(&shared->ticket, 1);
    if (ticket >= shared->requests) return NULL;
    shared->begins[ticket] = now();
    code = shared->launch(recorded->executable, recorded->stream);
    if (!code) code = shared->wait(recorded->stream);
    shared->ends[ticket] = now();
  }
  if (code) atomic_store(&shared->failure, code);
  return NULL;
}

// Sends a burst of requests from so many threads and writes when each began and ended, in
// nanoseconds.  Returns 0, what the driver failed with, or a negative code of the above.
int closed_loop(const Recorded* recorded, int threads, long requests, int64_t* begins,
                int64_t* ends) {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (!driver) return kNoDriver;
  Shared shared = {
      .gate = PTHREAD_MUTEX_INITIALIZER, .requests = requests, .begins = begins, .ends = ends};
  *(void**)&shared.set_context = dlsym(driver, "cuCtxSetCurrent");
  *(void**)&shared.launch = dlsym(driver, "cuGraphLaunch");
  *(void**)&shared.wait = dlsym(driver, "cuStreamSynchronize");
  if (!shared.set_context || !shared.launch || !shared.wait) return kNoDriver;
  Worker* workers = calloc((size_t)threads, sizeof *workers);
  if (!workers) return kNoThread;
  pthread_mutex_lock(&shared.gate);
  int started = 0;
  while (started < threads) {
    Worker* worker = &workers[started];
    *worker = (Worker){.shared = &shared, .recorded = &recorded[started]};
    if (pthread_create(&worker->thread, NULL, work, worker)) {
      atomic_store(&shared.failure, kNoThread);
      break;
    }
    ++started;
  }
  pthread_mutex_unlock(&shared.gate);
  for (int i = 0; i < started; ++i) pthread_join(workers[i].thread, NULL);
  free(workers);
  return atomic_load(&shared.failure);
}
