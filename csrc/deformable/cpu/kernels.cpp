// The kernels of deformable attention, compiled once per SIMD level: rows of a slab, weighted and added, or the
// reverse.
#include "deformable/cpu/kernels.h"

#include "deformable/cpu/reduce.h"
#include "deformable/cpu/tile.h"

namespace tmt::deformable::cpu::TMT_SIMD {
namespace {

constexpr int kWidest = 4;  // vectors of a row that are held in registers at a time

// What a thread works with, cut from its scratch.
template <typename A>
struct Workspace {
  A* slab;
  A* gradient;  // backward: the slab that is added to, where there is one split; then its output gradient
  A* output;    // (D rounded up to vectors): a row of the output or of its gradient
  Tile<A>* tile;

  Workspace(const DeformableArgs& args, void* scratch) {
    slab = static_cast<A*>(scratch);
    gradient = slab + slab_numbers<A>(args) + kPadding;
    output = gradient + slab_numbers<A>(args) + kPadding;
    auto at = reinterpret_cast<uintptr_t>(output + row_numbers<A>(args));
    tile = reinterpret_cast<Tile<A>*>((at + 63) / 64 * 64);
  }

  static int64_t bytes(const DeformableArgs& args) {
    return static_cast<int64_t>(sizeof(A)) * (2 * (slab_numbers<A>(args) + kPadding) + row_numbers<A>(args)) + 64 +
           static_cast<int64_t>(sizeof(Tile<A>));
  }
};

// One (image, head, split of the queries).
struct Item {
  int64_t image, head, split, begin, end;

  Item(const DeformableArgs& args, int64_t index) {
    split = index % args.splits;
    head = index / args.splits % args.heads;
    image = index / args.splits / args.heads;
    const int64_t size = (args.queries + args.splits - 1) / args.splits;
    begin = split * size < args.queries ? split * size : args.queries;
    end = begin + size < args.queries ? begin + size : args.queries;
  }
  // Of query q's samples, in entries of (B, Q, heads, samples).
  int64_t entry(const DeformableArgs& args, int64_t q) const {
    return ((image * args.queries + q) * args.heads + head) * args.samples();
  }
  // Of query q's output, in (B, Q, heads * D).
  int64_t row(const DeformableArgs& args, int64_t q) const {
    return ((image * args.queries + q) * args.heads + head) * args.dim;
  }
};

// Calls work(item, first query, queries) for every tile of the items; the slab holds the item's values then.
template <typename T, typename Begin, typename Work, typename End>
void for_each_tile(const DeformableArgs& args, int64_t begin, int64_t end, const Workspace<Accumulate<T>>& space,
                   const Begin& start, const Work& work, const End& finish) {
  using A = Accumulate<T>;
  zero(space.slab, slab_numbers<A>(args));
  space.tile->set_levels(args);
  int64_t loaded = -1;
  for (int64_t index = begin; index < end; ++index) {
    const Item item(args, index);
    if (index / args.splits != loaded) {
      loaded = index / args.splits;
      read_slab(args, static_cast<const T*>(args.value) + item.image * args.value_image + item.head * args.value_head,
                space.slab);
    }
    start(item);
    for (int64_t q = item.begin; q < item.end; q += args.tile()) {
      const int64_t count = q + args.tile() < item.end ? args.tile() : item.end - q;
      const int64_t entry = item.entry(args, q);
      space.tile->read(args, static_cast<const A*>(args.locations) + 2 * entry,
                       static_cast<const A*>(args.weights) + entry, count);
      work(item, q, count);
    }
    finish(item);
  }
}

// ---- forward --------------------------------------------------------------------------------------------------------

// output[v] = sum over samples [i, i + samples) and corners of corner weight * row, for kWide vectors of a row.
template <int kWide, typename A>
TMT_INLINE void gather(const Tile<A>& tile, int64_t i, int64_t samples, const A* slab, int64_t numbers, A* output) {
  constexpr int kChains = kWide <= 2 ? kCorners : 2;  // sums that do not wait for each other
  Vector<A> total[kChains][kWide] = {};
  for (const int64_t end = i + samples; i < end; ++i) {
    const A* upper = slab + tile.row[i] * numbers;
    const A* lower = upper + tile.stride[i] * numbers;
    const A* rows[kCorners] = {upper, upper + numbers, lower, lower + numbers};
#pragma GCC unroll 4
    for (int c = 0; c < kCorners; ++c) {
      const Vector<A> share = broadcast(tile.corner[c][i]);
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) total[c % kChains][v] += share * load(rows[c] + v * kLanes<A>);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kWide; ++v) {
    Vector<A> sum = total[0][v] + total[1][v];
    if constexpr (kChains == kCorners) sum += total[2][v] + total[3][v];
    store(output + v * kLanes<A>, sum);
  }
}

// Calls block(vectors, first number) for the columns of a row, `vectors` a compile-time number of vectors.
template <typename A, typename Block>
TMT_INLINE void for_each_block(int64_t numbers, const Block& block) {
  int64_t at = 0;
  for (; at + kWidest * kLanes<A> <= numbers; at += kWidest * kLanes<A>) block.template operator()<kWidest>(at);
  for (; at + 2 * kLanes<A> <= numbers; at += 2 * kLanes<A>) block.template operator()<2>(at);
  for (; at < numbers; at += kLanes<A>) block.template operator()<1>(at);
}

template <typename T>
void forward(const DeformableArgs& args, int64_t begin, int64_t end, void* scratch) {
  using A = Accumulate<T>;
  const Workspace<A> space(args, scratch);
  const int64_t numbers = row_numbers<A>(args), samples = args.samples();
  const auto nothing = [](const Item&) {};
  for_each_tile<T>(
      args, begin, end, space, nothing,
      [&](const Item& item, int64_t first, int64_t count) {
        for (int64_t q = 0; q < count; ++q) {
          for_each_block<A>(numbers, [&]<int kWide>(int64_t at) {
            gather<kWide>(*space.tile, q * samples, samples, space.slab + at, numbers, space.output + at);
          });
          store_row(space.output, A{1}, args.dim, static_cast<T*>(args.output) + item.row(args, first + q));
        }
      },
      nothing);
}

// ---- backward -------------------------------------------------------------------------------------------------------

// Collects vectors whose lanes are to be summed, and sums as many at a time as a vector has lanes.
template <typename A>
struct Dots {
  Vector<A> waiting[kCorners][kLanes<A>];
  int64_t sums = 0;

  TMT_ALWAYS_INLINE void flush(Tile<A>& tile, bool first) {
    const int64_t at = (sums - 1) / kLanes<A> * kLanes<A>;
    for (int c = 0; c < kCorners; ++c) {
      const Vector<A> found = lane_sums<A>(waiting[c]);
      store(tile.dot[c] + at, first ? found : load(tile.dot[c] + at) + found);
    }
  }
};

// For kWide vectors of a row: adds corner weight * gradient to the corners' rows of `into`, and keeps the products of
// gradient and value for the sums.
template <int kWide, typename A>
TMT_INLINE void scatter(Tile<A>& tile, int64_t i, int64_t samples, const A* slab, int64_t numbers, const A* gradient,
                        A* into, Dots<A>& dots, bool first) {
  Vector<A> g[kWide];
#pragma GCC unroll 4
  for (int v = 0; v < kWide; ++v) g[v] = load(gradient + v * kLanes<A>);
  for (const int64_t end = i + samples; i < end; ++i) {
    const int64_t upper = tile.row[i] * numbers, lower = upper + tile.stride[i] * numbers;
    const int64_t rows[kCorners] = {upper, upper + numbers, lower, lower + numbers};
#pragma GCC unroll 4
    for (int c = 0; c < kCorners; ++c) {
      const Vector<A> share = broadcast(tile.corner[c][i]);
      Vector<A> product = {};
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) {
        const int64_t at = rows[c] + v * kLanes<A>;
        product += g[v] * load(slab + at);
        store(into + at, load(into + at) + share * g[v]);
      }
      dots.waiting[c][i % kLanes<A>] = product;
    }
    if (++dots.sums % kLanes<A> == 0) dots.flush(tile, first);
  }
}

template <typename T>
void backward(const DeformableArgs& args, int64_t begin, int64_t end, void* scratch) {
  using A = Accumulate<T>;
  const Workspace<A> space(args, scratch);
  const int64_t numbers = row_numbers<A>(args), samples = args.samples(), size = slab_numbers<A>(args);
  const auto slab_of = [&](const Item& item) {
    const int64_t slab = (item.image * args.heads + item.head) * args.splits + item.split;
    return args.splits == 1 ? space.gradient : static_cast<A*>(args.slabs) + slab * size;
  };
  for_each_tile<T>(
      args, begin, end, space, [&](const Item& item) { zero(slab_of(item), size); },
      [&](const Item& item, int64_t first, int64_t count) {
        A* into = slab_of(item);
        for_each_block<A>(numbers, [&]<int kWide>(int64_t at) {
          Dots<A> dots;
          for (int64_t q = 0; q < count; ++q) {
            load_row(static_cast<const T*>(args.grad_output) + item.row(args, first + q), A{1}, args.dim, numbers,
                     space.output);
            scatter<kWide>(*space.tile, q * samples, samples, space.slab + at, numbers, space.output + at, into + at,
                           dots, at == 0);
          }
          if (dots.sums % kLanes<A> != 0) dots.flush(*space.tile, at == 0);
        });
        space.tile->finish(count * samples);
        const int64_t entry = item.entry(args, first);
        space.tile->write(args, static_cast<A*>(args.grad_locations) + 2 * entry,
                          static_cast<A*>(args.grad_weights) + entry, count);
      },
      [&](const Item& item) {
        if (args.splits > 1) return;
        T* head = static_cast<T*>(args.grad_value) + (item.image * args.positions * args.heads + item.head) * args.dim;
        write_slabs(args, space.gradient, 1, head, args.heads * args.dim);
      });
}

template <typename T>
void finish(const DeformableArgs& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  const int64_t size = slab_numbers<A>(args);
  for (int64_t i = begin; i < end; ++i) {
    T* head =
        static_cast<T*>(args.grad_value) + (i / args.heads * args.positions * args.heads + i % args.heads) * args.dim;
    write_slabs(args, static_cast<const A*>(args.slabs) + i * args.splits * size, args.splits, head,
                args.heads * args.dim);
  }
}

template <typename T>
int64_t slab_bytes(const DeformableArgs& args) {
  return static_cast<int64_t>(sizeof(Accumulate<T>)) * slab_numbers<Accumulate<T>>(args);
}

template <typename T>
int64_t scratch_bytes(const DeformableArgs& args) {
  return Workspace<Accumulate<T>>::bytes(args);
}

}  // namespace

// ---- entry points ---------------------------------------------------------------------------------------------------

int64_t deformable_slab_bytes(const DeformableArgs& args) {
  TMT_BY_ELEMENT(slab_bytes, args)
  __builtin_unreachable();
}
int64_t deformable_scratch_bytes(const DeformableArgs& args) {
  TMT_BY_ELEMENT(scratch_bytes, args)
  __builtin_unreachable();
}
void deformable_forward(const DeformableArgs& args, int64_t begin, int64_t end, void* scratch) {
  TMT_BY_ELEMENT(forward, args, begin, end, scratch)
}
void deformable_backward(const DeformableArgs& args, int64_t begin, int64_t end, void* scratch) {
  TMT_BY_ELEMENT(backward, args, begin, end, scratch)
}
void deformable_finish(const DeformableArgs& args, int64_t begin, int64_t end) {
  TMT_BY_ELEMENT(finish, args, begin, end)
}

}  // namespace tmt::deformable::cpu::TMT_SIMD
