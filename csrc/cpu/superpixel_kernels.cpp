// The superpixel's CPU kernels: walks over a cell row's tiles. Compiled once per SIMD level.
#include "superpixel_kernels.h"

#include "superpixel_rows.h"
#include "superpixel_tile_gradient.h"

namespace tmt::cpu::TMT_SIMD {
namespace {

// ---- forward --------------------------------------------------------------------------------------------------------

template <typename T>
void means_row(const Rows<T, SuperpixelForward>& rows, int64_t row, Workspace<A_of<T>>& work) {
  using A = Accumulate<T>;
  const SuperpixelGrid& grid = rows.grid;
  A* sums = rows.sums(row, kOwn / 3);
  zero(sums, (grid.columns + 2) * grid.channel_stride());
  rows.for_each_strip(row, work, [&](Strip<A>& strip) {
    read_strip(rows.features(row), grid, strip);
    for (int64_t t = 0; t < strip.size; ++t) {
      const Tile<A>& tile = strip.tiles[t];
      tile_norms(tile, grid, rows.inverse_norms(row) + tile.first);
      transpose_tile(tile, grid, work.channels);
      add_rows(work.channels, tile.count, grid.channel_stride(), sums + (tile.column + 1) * grid.channel_stride());
    }
  });
  for (int64_t column = 0; column < grid.columns; ++column) {
    const A* sum = sums + (column + 1) * grid.channel_stride();
    rows.put_centre(row, column, 0, sum, static_cast<A>(rows.cell_pixels(row, column)));
  }
}

template <typename T>
void accumulate_row(const Rows<T, SuperpixelForward>& rows, int64_t row, int64_t k, Workspace<A_of<T>>& work) {
  using A = Accumulate<T>;
  const SuperpixelGrid& grid = rows.grid;
  const bool last = k == grid.iterations;
  int8_t best[kTile];
  zero(rows.sums(row, 0), grid.sums_per_row());
  zero(rows.row_masses(row), grid.masses_per_row());
  rows.for_each_strip(row, work, [&](Strip<A>& strip) {
    read_strip(rows.features(row), grid, strip);
    for (int64_t t = 0; t < strip.size; ++t) {
      const Tile<A>& tile = strip.tiles[t];
      const Neighbours<A> near = rows.neighbours(row, tile.column);
      rows.load_centres(row, tile.column, k - 1, near.exists, work.centres);
      tile_dots(tile, grid, work.centres, work.weights);
      tile_softmax(tile, rows.inverse_norms(row) + tile.first, static_cast<A>(grid.kappa), near.exists, work.weights,
                   near.masses, last ? best : nullptr);
      transpose_tile(tile, grid, work.channels);
      tile_sums(tile, grid, work.channels, work.weights, near.sums);
      if (last) rows.put_assignment(row, tile, work.weights, best);
    }
  });
}

template <typename T>
void combine_row(const Rows<T, SuperpixelForward>& rows, int64_t row, int64_t k, A_of<T>* total) {
  using A = Accumulate<T>;
  const SuperpixelGrid& grid = rows.grid;
  for (int64_t column = 0; column < grid.columns; ++column) {
    rows.add_sums(row, column, total);
    const A mass = rows.total_mass(row, column);
    *rows.mass(row, column, k) = mass;
    const A eps = static_cast<A>(superpixel::kMassEps);
    rows.put_centre(row, column, k, total, mass < eps ? eps : mass);
    if (k == grid.iterations) rows.put_region(row, column);
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------

// The pulls of iteration k at one region, from the gradient (C) of its f_k.
template <typename T>
void put_pull(const Rows<T, SuperpixelBackward>& rows, int64_t row, int64_t column, int64_t k,
              const A_of<T>* gradient) {
  using A = Accumulate<T>;
  const int64_t region = rows.region(row, column);
  const A mass = *rows.mass(row, column, k), eps = static_cast<A>(superpixel::kMassEps);
  const A scale = 1 / (mass < eps ? eps : mass);
  const A* centre = rows.centre(row, region, k);
  A* pull = rows.pull(row, region);
  A along = 0;
  for (int64_t c = 0; c < rows.grid.channels; ++c) {
    pull[c] = gradient[c] * scale;
    along += pull[c] * centre[c];
  }
  *rows.mass_pull(row, region) = mass < eps ? 0 : -along;  // a clamped mass has no gradient
}

template <typename T>
void start_row(const Rows<T, SuperpixelBackward>& rows, int64_t row, A_of<T>* gradient) {
  const SuperpixelGrid& grid = rows.grid;
  rows.put_centre_norms(row);
  for (int64_t column = 0; column < grid.columns; ++column) {
    for (int64_t c = 0; c < grid.channels; ++c) gradient[c] = rows.grad_region(row, column, c);
    put_pull(rows, row, column, grid.iterations, gradient);
  }
}

template <typename T>
void gradient_row(const Rows<T, SuperpixelBackward>& rows, int64_t row, int64_t k, Workspace<A_of<T>>& work) {
  using A = Accumulate<T>;
  const SuperpixelGrid& grid = rows.grid;
  const bool first = k == grid.iterations;  // the backward begins with the last iteration
  zero(rows.sums(row, 0), grid.sums_per_row());
  rows.for_each_strip(row, work, [&](Strip<A>& strip) {
    read_strip(rows.features(row), grid, strip);
    for (int64_t t = 0; t < strip.size; ++t) {
      const Tile<A>& tile = strip.tiles[t];
      if (first) tile_norms(tile, grid, rows.inverse_norms(row) + tile.first);
      const Neighbours<A> near = rows.neighbours(row, tile.column);
      rows.load_pulls(row, tile.column, near.exists, work.pulls, work.mass_pulls);
      rows.load_centres(row, tile.column, k - 1, near.exists, work.centres);
      tile_dots(tile, grid, work.centres, work.weights);
      tile_dots(tile, grid, work.pulls, work.slopes);
      if (first) rows.add_grad_assignment(row, tile, work.slopes);
      tile_softmax_gradient(tile, rows.inverse_norms(row) + tile.first, static_cast<A>(grid.kappa), near.exists,
                            work.mass_pulls, work);
      transpose_tile(tile, grid, work.channels);
      tile_sums(tile, grid, work.channels, work.slopes, near.sums);
      tile_gradient(tile, grid, work);
    }
    first ? write_strip<false>(strip, grid, rows.gradient(row)) : write_strip<true>(strip, grid, rows.gradient(row));
  });
}

// From the gradient (C) of f^_(k-1) to that of f_(k-1), in place.
template <typename A>
void through_norm(const A* centre, A inverse, int64_t channels, A* gradient) {
  A along = 0;
  for (int64_t c = 0; c < channels; ++c) along += gradient[c] * (centre[c] * inverse);
  if (inverse >= inverse_norm(A(0))) along = 0;  // a clamped norm has no gradient
  for (int64_t c = 0; c < channels; ++c) gradient[c] = inverse * (gradient[c] - along * (centre[c] * inverse));
}

template <typename T>
void pull_row(const Rows<T, SuperpixelBackward>& rows, int64_t row, int64_t k, A_of<T>* total) {
  const SuperpixelGrid& grid = rows.grid;
  for (int64_t column = 0; column < grid.columns; ++column) {
    const int64_t region = rows.region(row, column);
    rows.add_sums(row, column, total);
    through_norm(rows.centre(row, region, k - 1), *rows.centre_norm(row, region, k - 1), grid.channels, total);
    if (k > 1) {
      put_pull(rows, row, column, k - 1, total);
    } else {
      const auto pixels = static_cast<A_of<T>>(rows.cell_pixels(row, column));
      for (int64_t c = 0; c < grid.channels; ++c) rows.pull(row, region)[c] = total[c] / pixels;
    }
  }
}

template <typename T>
void finish_row(const Rows<T, SuperpixelBackward>& rows, int64_t row) {
  const SuperpixelGrid& grid = rows.grid;
  const int64_t top = rows.cell_row(row) * grid.cell, bottom = top + rows.cell_height(row);
  for (int64_t c = 0; c < grid.channels; ++c)
    for (int64_t y = top; y < bottom; ++y)
      for (int64_t column = 0; column < grid.columns; ++column) {
        const auto mean_part = rows.pull(row, rows.region(row, column))[c];
        const int64_t start = (c * grid.height + y) * grid.width + column * grid.cell;
        const auto* from = rows.gradient(row) + start;
        T* to = rows.grad_features(row) + start;
        for (int64_t x = 0; x < rows.cell_width(column); ++x) store_one(to + x, from[x] + mean_part);
      }
}

}  // namespace

// ---- entry points ---------------------------------------------------------------------------------------------------

void superpixel_means(const SuperpixelForward& task, int64_t begin, int64_t end, void* workspace) {
  for_each_row(task, begin, end, workspace, [](auto& rows, int64_t row, auto& work) { means_row(rows, row, work); });
}

void superpixel_accumulate(const SuperpixelForward& task, int64_t k, int64_t begin, int64_t end, void* workspace) {
  for_each_row(task, begin, end, workspace,
               [k](auto& rows, int64_t row, auto& work) { accumulate_row(rows, row, k, work); });
}

void superpixel_combine(const SuperpixelForward& task, int64_t k, int64_t begin, int64_t end, void* workspace) {
  for_each_row(task, begin, end, workspace,
               [k](auto& rows, int64_t row, auto& work) { combine_row(rows, row, k, work.centres); });
}

void superpixel_start(const SuperpixelBackward& task, int64_t begin, int64_t end, void* workspace) {
  for_each_row(task, begin, end, workspace,
               [](auto& rows, int64_t row, auto& work) { start_row(rows, row, work.centres); });
}

void superpixel_gradient(const SuperpixelBackward& task, int64_t k, int64_t begin, int64_t end, void* workspace) {
  for_each_row(task, begin, end, workspace,
               [k](auto& rows, int64_t row, auto& work) { gradient_row(rows, row, k, work); });
}

void superpixel_pull(const SuperpixelBackward& task, int64_t k, int64_t begin, int64_t end, void* workspace) {
  for_each_row(task, begin, end, workspace,
               [k](auto& rows, int64_t row, auto& work) { pull_row(rows, row, k, work.centres); });
}

void superpixel_finish(const SuperpixelBackward& task, int64_t begin, int64_t end, void* workspace) {
  for_each_row(task, begin, end, workspace, [](auto& rows, int64_t row, auto&) { finish_row(rows, row); });
}

}  // namespace tmt::cpu::TMT_SIMD
