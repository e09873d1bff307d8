// A pool of threads for loops over independent work.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace zkserve {

// `count()` threads: the caller is one of them, the others wait between loops.
class Threads {
 public:
  explicit Threads(unsigned n) {
    for (unsigned i = 1; i < std::max(n, 1U); i++) workers_.emplace_back([this, i] { serve(i); });
  }
  ~Threads() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  unsigned count() const { return static_cast<unsigned>(workers_.size()) + 1; }

  // Call f(begin, end, worker) on ranges of at most `grain` that cover [0, n), each from one of the
  // threads, `worker` being its number below count(). Returns when all are done and throws the
  // first exception. Not to be called from within f.
  template <class F>
  void parallel(size_t n, size_t grain, F f) {
    grain = std::max<size_t>(grain, 1);
    if (workers_.empty() || n <= grain) {
      for (size_t begin = 0; begin < n; begin += grain) f(begin, std::min(begin + grain, n), 0U);
      return;
    }
    std::atomic<size_t> next{0};
    auto work = [&](unsigned worker) {
      for (size_t begin; (begin = next.fetch_add(grain)) < n;) f(begin, std::min(begin + grain, n), worker);
    };
    run({&work, [](void* context, unsigned worker) { (*static_cast<decltype(work)*>(context))(worker); }});
  }

 private:
  struct Job {
    void* context = nullptr;
    void (*call)(void*, unsigned) = nullptr;
  };

  void run(Job job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      running_ = workers_.size();
      failure_ = nullptr;
      generation_++;
    }
    wake_.notify_all();
    attempt(job, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
    if (failure_) std::rethrow_exception(failure_);
  }

  void attempt(Job job, unsigned worker) {
    try {
      job.call(job.context, worker);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void serve(unsigned worker) {
    uint64_t seen = 0;
    for (;;) {
      Job job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
        if (stopping_) return;
        seen = generation_;
        job = job_;
      }
      attempt(job, worker);
      std::lock_guard<std::mutex> lock(mutex_);
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job job_;
  size_t running_ = 0;
  uint64_t generation_ = 0;
  bool stopping_ = false;
  std::exception_ptr failure_;
};

}  // namespace zkserve
