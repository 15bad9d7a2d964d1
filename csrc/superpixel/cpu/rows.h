// Where a cell row's data lies, typed: the superpixel kernels' view of a task. T is the features' dtype.
#pragma once

#include "common/cpu/rows.h"
#include "superpixel/cpu/tile.h"

namespace tmt::superpixel::cpu::TMT_SIMD {

template <typename T>
using A_of = Accumulate<T>;

// One thread's scratch, cut out of one block.
template <typename T>
struct Workspace {
  using A = Accumulate<T>;
  T* pixels;      // (tiles, C, pixels of a tile)
  A* turned;      // (kTile, kTurned): some channels of a tile, transposed
  A* centres;     // (9, channel_stride): f^ of the neighbours
  A* pulls;       // (9, channel_stride)
  A* weights;     // (9, kTile): dots, then the assignment
  A* slopes;      // (9, kTile): the assignment's gradient, then the dots'
  A* factors;     // (L * 18, factor_stride): pulls and f^ of the neighbours in all iterations
  A* mass_pulls;  // (9)

  Workspace(void* block, const SuperpixelGrid& grid) {
    pixels = static_cast<T*>(block);
    turned = reinterpret_cast<A*>(static_cast<char*>(block) + grid.strip_bytes(sizeof(T)));
    centres = turned + kTile * kTurned;
    pulls = centres + kNeighbours * grid.channel_stride();
    weights = pulls + kNeighbours * grid.channel_stride();
    slopes = weights + kNeighbours * kTile;
    mass_pulls = slopes + kNeighbours * kTile;
    factors = mass_pulls + padded(kNeighbours);
  }
};

// to[c] = from[c] * scale and the like, by vectors: rows of channel_stride values.
template <typename A, typename Function>
TMT_INLINE void fill_row(A* to, int64_t size, const Function& function) {
  for (int64_t c = 0; c < size; c += kLanes<A>) store(to + c, function(c));
}

template <typename A>
A dot(const A* x, const A* y, int64_t size) {
  Vector<A> total = {};
  int64_t c = 0;
  for (; c + kLanes<A> <= size; c += kLanes<A>) total += load(x + c) * load(y + c);
  A rest = 0;
  for (; c < size; ++c) rest += x[c] * y[c];
  return sum<A>(total) + rest;
}

// A tile's nine cells: which exist, and where this cell row adds to them.
template <typename A>
struct Neighbours {
  bool exists[kNeighbours];
  A* sums[kNeighbours];
  A* masses[kNeighbours];

  int64_t size() const {
    int64_t number = 0;
    for (const bool exist : exists) number += exist;
    return number;
  }
};

// `row` counts the cell rows of the group's images.
template <typename T, typename Task>
struct Rows {
  using A = Accumulate<T>;
  const Task& task;
  const SuperpixelGrid& grid;

  explicit Rows(const Task& t) : task(t), grid(t.grid) {}

  int64_t image(int64_t row) const { return row / grid.rows; }  // within the group
  int64_t batch_image(int64_t row) const { return task.first + image(row); }
  int64_t cell_row(int64_t row) const { return row % grid.rows; }
  int64_t region(int64_t row, int64_t column) const { return cell_row(row) * grid.columns + column; }
  int64_t cell_height(int64_t row) const { return smaller(grid.cell, grid.height - cell_row(row) * grid.cell); }
  int64_t cell_width(int64_t column) const { return smaller(grid.cell, grid.width - column * grid.cell); }
  int64_t cell_pixels(int64_t row, int64_t column) const { return cell_height(row) * cell_width(column); }
  static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

  // ---- tensors ----
  template <typename P, typename V>
  static P* at(V* base, int64_t index) {
    return static_cast<P*>(base) + index;
  }
  int64_t plane(int64_t row) const { return batch_image(row) * grid.channels * grid.pixels(); }
  const T* features(int64_t row) const { return at<const T>(task.features, plane(row)); }
  T* grad_features(int64_t row) const { return at<T>(task.grad_features, plane(row)); }
  A* inverse_norms(int64_t row) const { return at<A>(task.inverse_norms, image(row) * grid.pixels()); }
  // f_k (C) of a region of the row's image.
  A* centre(int64_t row, int64_t region, int64_t k) const {
    const int64_t map = batch_image(row) * (grid.iterations + 1) + k;
    return at<A>(task.history, (map * grid.regions() + region) * grid.channels);
  }
  // f^_k (channel_stride).
  A* unit(int64_t row, int64_t region, int64_t k) const {
    const int64_t map = image(row) * task.unit_maps + k % task.unit_maps;
    return at<A>(task.units, (map * grid.regions() + region) * grid.channel_stride());
  }
  A* centre_norm(int64_t row, int64_t region, int64_t k) const {
    return at<A>(task.centre_norms, (image(row) * grid.iterations + k) * grid.regions() + region);
  }
  // What the cell row adds to the cells above (dy 0), in (1) and below (2) it: (w+2, channel_stride).
  A* sums(int64_t row, int64_t dy) const {
    return at<A>(task.sums, row * grid.sums_per_row() + dy * (grid.columns + 2) * grid.channel_stride());
  }
  A* row_masses(int64_t row) const { return at<A>(task.row_masses, row * grid.masses_per_row()); }
  A* mass(int64_t row, int64_t column, int64_t k) const {
    const int64_t map = batch_image(row) * grid.iterations + k - 1;
    return at<A>(task.masses, map * grid.regions() + region(row, column));
  }
  A* pull(int64_t row, int64_t region, int64_t k) const {
    const int64_t map = image(row) * (grid.iterations + 1) + k;
    return at<A>(task.pulls, (map * grid.regions() + region) * grid.channel_stride());
  }
  A* mass_pull(int64_t row, int64_t region) const {
    return at<A>(task.mass_pulls, image(row) * grid.regions() + region);
  }
  // (2 * neighbours that exist, count): of the pulls, then of the f^.
  A* shares(int64_t row, const Tile<T>& tile, int64_t neighbours, int64_t k) const {
    const int64_t place = image(row) * grid.pixels() + tile.first;
    return at<A>(task.shares, place * grid.shares_per_pixel() + (k - 1) * 2 * neighbours * tile.count);
  }
  A* lengths(int64_t row) const { return at<A>(task.lengths, image(row) * grid.pixels()); }
  A grad_region(int64_t row, int64_t column, int64_t c) const {
    if (task.grad_region_features == nullptr) return 0;
    const int64_t map = batch_image(row) * grid.channels + c;
    return load_one(at<const T>(task.grad_region_features, map * grid.regions() + region(row, column)));
  }

  // ---- tiles ----
  // Calls visit(strip) for every run of tiles of the cell row.
  template <typename Visit>
  void for_each_strip(int64_t row, const Workspace<T>& work, const Visit& visit) const {
    const int64_t top = cell_row(row) * grid.cell, bottom = top + cell_height(row);
    for (int64_t y = top; y < bottom; y += grid.tile_height()) {
      const int64_t height = smaller(grid.tile_height(), bottom - y);
      for (int64_t x = 0; x < grid.width;) {
        Strip<T> strip = next_strip(y, height, x, work);
        visit(strip);
      }
    }
  }

  // The tiles of rows y, y + 1, ... that begin at x; moves x behind them.
  Strip<T> next_strip(int64_t y, int64_t height, int64_t& x, const Workspace<T>& work) const {
    Strip<T> strip;
    strip.size = 0;
    T* pixels = work.pixels;
    while (strip.size < grid.strip_tiles(sizeof(T)) && x < grid.width) {
      const int64_t column = x / grid.cell;
      const int64_t end = smaller((column + 1) * grid.cell, grid.width);
      const int64_t width = smaller(grid.tile_width(), end - x), count = height * width;
      strip.tiles[strip.size++] = {y, x, height, width, column, count, y * grid.width + height * x, pixels};
      x += width;
      pixels += grid.channels * count;
    }
    return strip;
  }

  Neighbours<A> neighbours(int64_t row, int64_t column) const {
    Neighbours<A> near;
    for (int n = 0; n < kNeighbours; ++n) {
      const int64_t dy = n / 3, place = dy * (grid.columns + 2) + column + 1 + neighbour_column(n);
      near.exists[n] = neighbour_exists(n, cell_row(row), column, grid.rows, grid.columns);
      near.sums[n] = sums(row, 0) + place * grid.channel_stride();
      near.masses[n] = row_masses(row) + place;
    }
    return near;
  }

  int64_t neighbour(int64_t row, int64_t column, int n) const {
    return region(row, column) + neighbour_row(n) * grid.columns + neighbour_column(n);
  }

  // centres (9, channel_stride): f^_k of the cell's neighbours, 0 for those that do not exist.
  void load_centres(int64_t row, int64_t column, int64_t k, const bool* exists, A* centres) const {
    for (int n = 0; n < kNeighbours; ++n) {
      const A* from = exists[n] ? unit(row, neighbour(row, column, n), k) : nullptr;
      load_row(from, centres + n * grid.channel_stride());
    }
  }

  // pulls (9, channel_stride) and mass_pulls (9) of the cell's neighbours, 0 for those that do not exist.
  void load_pulls(int64_t row, int64_t column, int64_t k, const bool* exists, A* pulls, A* mass_pulls) const {
    for (int n = 0; n < kNeighbours; ++n) {
      const int64_t region = neighbour(row, column, n);
      load_row(exists[n] ? pull(row, region, k) : nullptr, pulls + n * grid.channel_stride());
      mass_pulls[n] = exists[n] ? *mass_pull(row, region) : 0;
    }
  }

  // factors (L, 2 * neighbours that exist, factor_stride): what the shares are of.
  void load_factors(int64_t row, int64_t column, const bool* exists, A* factors) const {
    for (int64_t k = 1; k <= grid.iterations; ++k)
      for (int i = 0; i < 2 * kNeighbours; ++i) {
        const int n = i % kNeighbours;
        if (!exists[n]) continue;
        const int64_t region = neighbour(row, column, n);
        load_row(i < kNeighbours ? pull(row, region, k) : unit(row, region, k - 1), factors);
        factors += grid.factor_stride();
      }
  }

  void load_row(const A* from, A* to) const {
    fill_row(to, grid.channel_stride(), [&](int64_t c) { return from == nullptr ? Vector<A>{} : load(from + c); });
  }

  // ---- regions ----
  // total (channel_stride): what the cell rows above, here and below added to a cell, always in this order.
  void add_sums(int64_t row, int64_t column, A* total) const {
    const int64_t stride = grid.channel_stride();
    zero(total, stride);
    for (int64_t dy = -1; dy <= 1; ++dy) {
      if (cell_row(row) + dy < 0 || cell_row(row) + dy >= grid.rows) continue;
      const A* part = sums(row + dy, 1 - dy) + (column + 1) * stride;
      fill_row(total, stride, [&](int64_t c) { return load(total + c) + load(part + c); });
    }
  }

  A total_mass(int64_t row, int64_t column) const {
    A total = 0;
    for (int64_t dy = -1; dy <= 1; ++dy)
      if (cell_row(row) + dy >= 0 && cell_row(row) + dy < grid.rows)
        total += row_masses(row + dy)[(1 - dy) * (grid.columns + 2) + column + 1];
    return total;
  }

  // f_k = sum / mass, in place of sum (channel_stride); to the history where it is kept, as f^_k where another
  // iteration follows.
  void put_centre(int64_t row, int64_t column, int64_t k, A* sum, A mass) const {
    fill_row(sum, grid.channel_stride(), [&](int64_t c) { return load(sum + c) / mass; });
    if (task.history != nullptr)
      __builtin_memcpy(centre(row, region(row, column), k), sum, static_cast<size_t>(grid.channels) * sizeof(A));
    if (k < grid.iterations) put_unit(row, region(row, column), k, sum);
  }

  // f^_k of f_k (C), x; returns 1 / max(|x|, eps).
  A put_unit(int64_t row, int64_t region, int64_t k, const A* x) const {
    const A norm = norm_from_square(dot(x, x, grid.channels), x, 1, grid.channels), inverse = inverse_norm(norm);
    A* to = unit(row, region, k);
    for (int64_t c = 0; c < grid.channels; ++c) to[c] = x[c] * inverse;
    return inverse;
  }

  // region_features from f_L (C).
  void put_region(int64_t row, int64_t column, const A* from) const {
    T* to = at<T>(task.region_features, batch_image(row) * grid.channels * grid.regions() + region(row, column));
    for (int64_t c = 0; c < grid.channels; ++c) store_one(to + c * grid.regions(), from[c]);
  }

  // ---- pixels ----
  void put_assignment(int64_t row, const Tile<T>& tile, const A* weights, const int8_t* best) const {
    T* map = at<T>(task.assignment, batch_image(row) * kNeighbours * grid.pixels());
    int64_t* labels = task.labels + batch_image(row) * grid.pixels();
    for (int64_t y = 0; y < tile.height; ++y) {
      const int64_t place = (tile.y + y) * grid.width + tile.x, p = y * tile.width;
      for (int n = 0; n < kNeighbours; ++n)
        for (int64_t x = 0; x < tile.width; ++x)
          store_one(map + n * grid.pixels() + place + x, weights[n * kTile + p + x]);
      for (int64_t x = 0; x < tile.width; ++x) labels[place + x] = neighbour(row, tile.column, best[p + x]);
    }
  }

  // slopes (9, kTile) += grad_assignment.
  void add_grad_assignment(int64_t row, const Tile<T>& tile, A* slopes) const {
    if (task.grad_assignment == nullptr) return;
    const T* map = at<const T>(task.grad_assignment, batch_image(row) * kNeighbours * grid.pixels());
    for (int n = 0; n < kNeighbours; ++n)
      for (int64_t y = 0; y < tile.height; ++y) {
        const T* from = map + n * grid.pixels() + (tile.y + y) * grid.width + tile.x;
        A* to = slopes + n * kTile + y * tile.width;
        for (int64_t x = 0; x < tile.width; ++x) to[x] += load_one(from + x);
      }
  }

  // Keeps the a (weights) and u (slopes) of iteration k, both (9, kTile), of the neighbours that exist.
  void put_shares(int64_t row, const Tile<T>& tile, int64_t k, const Neighbours<A>& near, const A* weights,
                  const A* slopes) const {
    A* to = shares(row, tile, near.size(), k);
    for (int i = 0; i < 2 * kNeighbours; ++i) {
      const int n = i % kNeighbours;
      if (!near.exists[n]) continue;
      const A* from = (i < kNeighbours ? weights : slopes) + n * kTile;
      __builtin_memcpy(to, from, static_cast<size_t>(tile.count) * sizeof(A));
      to += tile.count;
    }
  }
};

// Calls function(rows, row, workspace) for rows begin .. end - 1.
template <typename T, typename Task, typename Function>
void walk_rows(const Task& task, int64_t begin, int64_t end, void* block, const Function& function) {
  Rows<T, Task> rows(task);
  Workspace<T> work(block, task.grid);
  for (int64_t row = begin; row < end; ++row) function(rows, row, work);
}

template <typename Task, typename Function>
void for_each_row(const Task& task, int64_t begin, int64_t end, void* block, const Function& function) {
  switch (task.element) {
    case Element::float32: return walk_rows<float>(task, begin, end, block, function);
    case Element::float64: return walk_rows<double>(task, begin, end, block, function);
    case Element::bfloat16: return walk_rows<BFloat16>(task, begin, end, block, function);
    case Element::float16: return walk_rows<Half>(task, begin, end, block, function);
  }
}

}  // namespace tmt::superpixel::cpu::TMT_SIMD
