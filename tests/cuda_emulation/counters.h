// Counts what kernels move, as a GPU would serve it: the lanes of a warp together. Every access of a lane comes here
// with its site, the place in the code that makes it: from the kernels by the hooks that g++ -fsanitize=thread calls
// (counters.cpp has them instead of the sanitizer's library), from matrix loads and asynchronous copies by the
// emulation. A warp access is what its lanes do at a site the n-th time since they all met last, at a barrier or a
// warp operation; where lanes skip a site between two such meetings, it is matched with a later turn of theirs. The
// parts of a vector that are accessed one after the other count as one access, as compilers for GPUs join them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace emulation {

enum class Traffic : unsigned {
  shared_load,
  shared_store,
  shared_matrix,
  shared_copy,
  global_load,
  global_store,
  product
};

constexpr unsigned kLanes = 32;

// What the lanes of a warp access since they met.
class WarpTrace {
 public:
  void add(Traffic traffic, uintptr_t site, uintptr_t address, unsigned bytes, unsigned lane);
  // All lanes have met: what was added is counted.
  void meet();

 private:
  struct Access {
    Traffic traffic;
    uintptr_t site;
    unsigned bytes, lanes;  // a bit per lane
    uintptr_t address[kLanes];

    bool is_joined_by(const Access& next) const;
  };
  struct Turns {
    uint64_t meeting = 0;
    unsigned count[kLanes] = {};
    std::vector<size_t> accesses;  // of each turn
  };

  Turns& turns_of(uint64_t key);
  void join();

  std::unordered_map<uint64_t, Turns> sites_;
  std::vector<Access> accesses_;
  uint64_t meeting_ = 1;
};

struct Span {
  uintptr_t begin = 0, end = 0;
  bool has(uintptr_t address) const { return address - begin < end - begin; }
};
inline Span span(const void* begin, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(begin);
  return {address, address + bytes};
}

// Whose accesses come to the hooks: those of the fiber that runs.
struct Running {
  WarpTrace* trace = nullptr;  // null: nobody's
  unsigned lane = 0;
  Span shared, stack;
};
extern Running running;

bool counting();
void count_launch(const void* kernel);
// Of the fiber that runs; `global` may be null.
void count_copy(const void* shared, const void* global, unsigned bytes, const void* site);

}  // namespace emulation
