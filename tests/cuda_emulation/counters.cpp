// See counters.h. Shared memory has 32 banks of 4 bytes: a warp's access is served in phases of at most 128 bytes, 32
// lanes of up to 4 bytes, 16 of 8, 8 of 16, and a phase takes a wavefront for each further word in the fullest bank.
#include "counters.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <cstring>
#include <map>
#include <tuple>

#include "emulation.h"

namespace emulation {

Running running;

namespace {

constexpr uintptr_t kWordBytes = 4, kBanks = 32, kSectorBytes = 32, kPageBytes = 4096;
constexpr unsigned kWidest = 16;  // bytes that a lane can access at once

struct Totals {
  uint64_t accesses = 0, wavefronts = 0, ideal = 0, bytes = 0, sectors = 0;
};

using Sectors = std::unordered_map<uintptr_t, std::bitset<kPageBytes / kSectorBytes>>;  // by page

struct Launched {
  uint64_t launches = 0, footprint[2] = {};  // sectors read and written, each once in a launch
  Sectors touched[2];
};

bool is_counting = false;
Span host_stack, library;
const void* kernel = nullptr;
std::map<const void*, Launched> kernels;
std::map<std::tuple<const void*, uintptr_t, Traffic>, Totals> totals;

Span stack_of_caller() {
  pthread_attr_t attributes;
  void* begin = nullptr;
  size_t bytes = 0;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &begin, &bytes);
  pthread_attr_destroy(&attributes);
  return span(begin, bytes);
}

// Where the variables of this library are: threadIdx and its like are registers on a GPU.
Span own_library() {
  Span found;
  const auto visit = [](dl_phdr_info* info, size_t, void* given) {
    uintptr_t end = info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; ++i)
      if (info->dlpi_phdr[i].p_type == PT_LOAD)
        end = std::max<uintptr_t>(end, info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz);
    const Span range{info->dlpi_addr, end};
    if (!range.has(reinterpret_cast<uintptr_t>(&running))) return 0;
    *static_cast<Span*>(given) = range;
    return 1;
  };
  dl_iterate_phdr(visit, &found);
  return found;
}

// The words of some lanes in shared memory: the most that one bank has to give.
class Phase {
 public:
  void add(uintptr_t address, unsigned bytes) {
    for (uintptr_t word = address / kWordBytes; word <= (address + bytes - 1) / kWordBytes; ++word) {
      auto& bank = words_[word % kBanks];
      unsigned& count = counts_[word % kBanks];
      if (std::find(bank.begin(), bank.begin() + count, word) != bank.begin() + count) continue;
      bank[count++] = word;
      most_ = std::max(most_, count);
    }
  }
  unsigned wavefronts() const { return most_; }

 private:
  std::array<std::array<uintptr_t, kLanes>, kBanks> words_;
  std::array<unsigned, kBanks> counts_ = {};
  unsigned most_ = 0;
};

template <typename Access>
void count_shared(Totals& total, const Access& access) {
  const unsigned lanes = access.bytes <= 4 ? kLanes : access.bytes <= 8 ? kLanes / 2 : kLanes / 4;
  for (unsigned first = 0; first < kLanes; first += lanes) {
    Phase phase;
    for (unsigned lane = first; lane < first + lanes; ++lane)
      if (access.lanes >> lane & 1u) phase.add(access.address[lane], access.bytes);
    total.wavefronts += phase.wavefronts();
    total.ideal += phase.wavefronts() > 0;
  }
}

template <typename Access>
void count_global(Totals& total, const Access& access) {
  std::vector<uintptr_t> sectors;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(access.lanes >> lane & 1u)) continue;
    sectors.push_back(access.address[lane] / kSectorBytes);
    sectors.push_back((access.address[lane] + access.bytes - 1) / kSectorBytes);
  }
  std::sort(sectors.begin(), sectors.end());
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  total.sectors += sectors.size();
  Launched& launched = kernels[kernel];
  const bool written = access.traffic == Traffic::global_store;
  for (const uintptr_t sector : sectors) {
    constexpr uintptr_t kSectors = kPageBytes / kSectorBytes;
    auto bit = launched.touched[written][sector / kSectors][sector % kSectors];
    launched.footprint[written] += !bit;
    bit = true;
  }
}

bool in_shared(Traffic traffic) { return traffic < Traffic::global_load; }

// An access of a kernel to what `pointer` points to, in pieces that a lane can access at once.
void count_access(bool written, const void* pointer, size_t bytes, const void* site) {
  if (running.trace == nullptr) return;
  uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  if (running.stack.has(address) || host_stack.has(address) || library.has(address)) return;
  const bool shared = running.shared.has(address);
  const Traffic traffic = shared    ? written ? Traffic::shared_store : Traffic::shared_load
                          : written ? Traffic::global_store
                                    : Traffic::global_load;
  for (unsigned piece; bytes > 0; address += piece, bytes -= piece) {
    for (piece = kWidest; piece > bytes || address % piece != 0;) piece /= 2;
    running.trace->add(traffic, reinterpret_cast<uintptr_t>(site), address, piece, running.lane);
  }
}

}  // namespace

void WarpTrace::add(Traffic traffic, uintptr_t site, uintptr_t address, unsigned bytes, unsigned lane) {
  Turns& turns = turns_of(site << 8 | static_cast<uint64_t>(traffic) << 5 | bytes);
  const unsigned turn = turns.count[lane]++;
  if (turn == turns.accesses.size()) {
    turns.accesses.push_back(accesses_.size());
    accesses_.push_back({traffic, site, bytes, 0, {}});
  }
  Access& access = accesses_[turns.accesses[turn]];
  access.lanes |= 1u << lane;
  access.address[lane] = address;
}

WarpTrace::Turns& WarpTrace::turns_of(uint64_t key) {
  Turns& turns = sites_[key];
  if (turns.meeting != meeting_) {
    turns.meeting = meeting_;
    std::fill(turns.count, turns.count + kLanes, 0u);
    turns.accesses.clear();
  }
  return turns;
}

// Whether `next` is what follows in memory, in the same vector, by code close by.
bool WarpTrace::Access::is_joined_by(const Access& next) const {
  constexpr uintptr_t kCloseBy = 256;  // bytes of machine code
  if (next.traffic != traffic || next.lanes != lanes || next.site == site || bytes < kWordBytes) return false;
  if (next.site - site + kCloseBy > 2 * kCloseBy || bytes + next.bytes > kWidest) return false;
  const uintptr_t aligned = bytes + next.bytes <= 8 ? 8 : kWidest;
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (lanes >> lane & 1u && (address[lane] % aligned != 0 || address[lane] + bytes != next.address[lane]))
      return false;
  return true;
}

// Joins accesses to one vector; its parts and those of others may come by turns.
void WarpTrace::join() {
  constexpr ptrdiff_t kBefore = 8;
  size_t kept = 0;
  for (const Access& next : accesses_) {
    const auto end = accesses_.begin() + kept, begin = end - std::min<ptrdiff_t>(kept, kBefore);
    const auto joined = std::find_if(begin, end, [&](const Access& access) { return access.is_joined_by(next); });
    if (joined == end)
      accesses_[kept++] = next;
    else
      joined->bytes += next.bytes;
  }
  accesses_.resize(kept);
}

void WarpTrace::meet() {
  join();
  for (const Access& access : accesses_) {
    Totals& total = totals[{kernel, access.site, access.traffic}];
    total.accesses += 1;
    total.bytes += access.bytes * __builtin_popcount(access.lanes);
    if (in_shared(access.traffic))
      count_shared(total, access);
    else if (access.traffic != Traffic::product)
      count_global(total, access);
  }
  accesses_.clear();
  ++meeting_;
}

bool counting() { return is_counting; }

void count_launch(const void* launched) {
  kernel = launched;
  host_stack = stack_of_caller();
  library = own_library();
  Launched& entry = kernels[kernel];
  entry.launches += 1;
  for (Sectors& touched : entry.touched) touched.clear();
}

void read_matrix_row(void* to, const void* row) {
  const auto site = reinterpret_cast<uintptr_t>(__builtin_return_address(0)), at = reinterpret_cast<uintptr_t>(row);
  require(is_shared(row, kWidest), "load_matrices reads outside of shared memory");
  require(at % kWidest == 0, "load_matrices reads from no multiple of 16");
  if (running.trace != nullptr) running.trace->add(Traffic::shared_matrix, site, at, kWidest, running.lane);
  std::memcpy(to, row, kWidest);
}

void count_product() {
  const auto site = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  if (running.trace != nullptr) running.trace->add(Traffic::product, site, 0, 0, running.lane);
}

void count_copy(const void* shared, const void* global, unsigned bytes, const void* site) {
  if (running.trace == nullptr) return;
  const auto add = [&](Traffic traffic, const void* address) {
    running.trace->add(traffic, reinterpret_cast<uintptr_t>(site), reinterpret_cast<uintptr_t>(address), bytes,
                       running.lane);
  };
  add(Traffic::shared_copy, shared);
  if (global != nullptr) add(Traffic::global_load, global);
}

}  // namespace emulation

// ---- what Python asks -----------------------------------------------------------------------------------------------

namespace {

struct SiteRow {
  uint64_t kernel, site, traffic, accesses, wavefronts, ideal, bytes, sectors;
};
struct KernelRow {
  uint64_t kernel, launches, sectors_read, sectors_written;
};

uint64_t offset_of(uintptr_t address) { return address - emulation::library.begin; }

}  // namespace

extern "C" {
#pragma GCC visibility push(default)
// Accesses are counted from now on, from zero; 0: no longer.
void tmt_emulation_count(int counting) {
  emulation::is_counting = counting != 0;
  if (!counting) return;
  emulation::kernels.clear();
  emulation::totals.clear();
}

// Fills `rows`, if not null, and returns how many there are. Kernels and sites are offsets in this library; that of a
// site is the end of its call.
uint64_t tmt_emulation_counted_sites(SiteRow* rows) {
  for (const auto& [key, total] : emulation::totals) {
    if (rows == nullptr) break;
    const auto& [kernel, site, traffic] = key;
    *rows++ = {offset_of(reinterpret_cast<uintptr_t>(kernel)),
               offset_of(site),
               static_cast<uint64_t>(traffic),
               total.accesses,
               total.wavefronts,
               total.ideal,
               total.bytes,
               total.sectors};
  }
  return emulation::totals.size();
}

uint64_t tmt_emulation_counted_kernels(KernelRow* rows) {
  for (const auto& [kernel, launched] : emulation::kernels) {
    if (rows == nullptr) break;
    *rows++ = {offset_of(reinterpret_cast<uintptr_t>(kernel)), launched.launches, launched.footprint[0],
               launched.footprint[1]};
  }
  return emulation::kernels.size();
}
#pragma GCC visibility pop

// ---- the hooks of -fsanitize=thread ---------------------------------------------------------------------------------

void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* at, size_t bytes) {
  emulation::count_access(false, at, bytes, __builtin_return_address(0));
}
void __tsan_write_range(void* at, size_t bytes) {
  emulation::count_access(true, at, bytes, __builtin_return_address(0));
}

#define TMT_ACCESS(bytes)                                                                                       \
  void __tsan_read##bytes(void* at) { emulation::count_access(false, at, bytes, __builtin_return_address(0)); } \
  void __tsan_write##bytes(void* at) { emulation::count_access(true, at, bytes, __builtin_return_address(0)); }
TMT_ACCESS(1)
TMT_ACCESS(2)
TMT_ACCESS(4)
TMT_ACCESS(8)
TMT_ACCESS(16)
#undef TMT_ACCESS

// Host code's: reference counts and the guards of static variables.
unsigned char __tsan_atomic8_load(const volatile unsigned char* at, int) {
  return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}
unsigned __tsan_atomic32_load(const volatile unsigned* at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
uint64_t __tsan_atomic64_load(const volatile uint64_t* at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
unsigned __tsan_atomic32_fetch_add(volatile unsigned* at, unsigned value, int) {
  return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);
}
}
