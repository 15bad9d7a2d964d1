// The superpixel's CPU kernels: walks over a cell row's tiles. Compiled once per SIMD level.
#include "superpixel/cpu/kernels.h"

#include "superpixel/cpu/rows.h"
#include "superpixel/cpu/tile_gradient.h"

namespace tmt::superpixel::cpu::TMT_SIMD {
namespace {

// ---- forward --------------------------------------------------------------------------------------------------------

template <typename T>
void means_row(const Rows<T, SuperpixelForward>& rows, int64_t row, const Workspace<T>& work) {
  using A = Accumulate<T>;
  const SuperpixelGrid& grid = rows.grid;
  A* sums = rows.sums(row, kOwn / 3);
  zero(sums, (grid.columns + 2) * grid.channel_stride());
  rows.for_each_strip(row, work, [&](const Strip<T>& strip) {
    copy_strip<false>(rows.features(row), grid, strip);
    for (int64_t t = 0; t < strip.size; ++t) {
      const Tile<T>& tile = strip.tiles[t];
      tile_norms(tile, grid, rows.inverse_norms(row) + tile.first);
      tile_total(tile, grid, work.turned, sums + (tile.column + 1) * grid.channel_stride());
    }
  });
  for (int64_t column = 0; column < grid.columns; ++column) {
    A* sum = sums + (column + 1) * grid.channel_stride();
    rows.put_centre(row, column, 0, sum, static_cast<A>(rows.cell_pixels(row, column)));
  }
}

template <typename T>
void accumulate_row(const Rows<T, SuperpixelForward>& rows, int64_t row, int64_t k, const Workspace<T>& work) {
  using A = Accumulate<T>;
  const SuperpixelGrid& grid = rows.grid;
  const bool last = k == grid.iterations;
  int8_t best[kTile];
  zero(rows.sums(row, 0), grid.sums_per_row());
  zero(rows.row_masses(row), grid.masses_per_row());
  rows.for_each_strip(row, work, [&](const Strip<T>& strip) {
    copy_strip<false>(rows.features(row), grid, strip);
    for (int64_t t = 0; t < strip.size; ++t) {
      const Tile<T>& tile = strip.tiles[t];
      const Neighbours<A> near = rows.neighbours(row, tile.column);
      rows.load_centres(row, tile.column, k - 1, near.exists, work.centres);
      tile_dots(tile, grid, work.centres, work.weights);
      tile_softmax(tile, rows.inverse_norms(row) + tile.first, static_cast<A>(grid.kappa), near.exists, work.weights,
                   near.masses, last ? best : nullptr);
      tile_sums(tile, grid, work.weights, work.turned, near.sums);
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
    if (rows.task.masses != nullptr) *rows.mass(row, column, k) = mass;
    const A eps = static_cast<A>(kMassEps);
    rows.put_centre(row, column, k, total, mass < eps ? eps : mass);
    if (k == grid.iterations) rows.put_region(row, column, total);
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------

// The pulls of iteration k at one region, from the gradient (C) of its f_k.
template <typename T>
void put_pull(const Rows<T, SuperpixelBackward>& rows, int64_t row, int64_t column, int64_t k,
              const A_of<T>* gradient) {
  using A = Accumulate<T>;
  const int64_t region = rows.region(row, column);
  const A mass = *rows.mass(row, column, k), eps = static_cast<A>(kMassEps);
  const A scale = 1 / (mass < eps ? eps : mass);
  A* pull = rows.pull(row, region, k);
  for (int64_t c = 0; c < rows.grid.channels; ++c) pull[c] = gradient[c] * scale;
  // A clamped mass has no gradient.
  *rows.mass_pull(row, region) = mass < eps ? 0 : -dot(pull, rows.centre(row, region, k), rows.grid.channels);
}

template <typename T>
void start_row(const Rows<T, SuperpixelBackward>& rows, int64_t row, A_of<T>* gradient) {
  const SuperpixelGrid& grid = rows.grid;
  for (int64_t column = 0; column < grid.columns; ++column) {
    const int64_t region = rows.region(row, column);
    for (int64_t k = 0; k < grid.iterations; ++k)
      *rows.centre_norm(row, region, k) = rows.put_unit(row, region, k, rows.centre(row, region, k));
    for (int64_t c = 0; c < grid.channels; ++c) gradient[c] = rows.grad_region(row, column, c);
    put_pull(rows, row, column, grid.iterations, gradient);
  }
}

template <typename T>
void start_tile(const Rows<T, SuperpixelBackward>& rows, int64_t row, const Tile<T>& tile) {
  tile_norms(tile, rows.grid, rows.inverse_norms(row) + tile.first);
  zero(rows.lengths(row) + tile.first, tile.count);
}

template <typename T>
void gradient_row(const Rows<T, SuperpixelBackward>& rows, int64_t row, int64_t k, const Workspace<T>& work) {
  using A = Accumulate<T>;
  const SuperpixelGrid& grid = rows.grid;
  const bool first = k == grid.iterations;  // the backward begins with the last iteration
  zero(rows.sums(row, 0), grid.sums_per_row());
  rows.for_each_strip(row, work, [&](const Strip<T>& strip) {
    copy_strip<false>(rows.features(row), grid, strip);
    for (int64_t t = 0; t < strip.size; ++t) {
      const Tile<T>& tile = strip.tiles[t];
      if (first) start_tile(rows, row, tile);
      const Neighbours<A> near = rows.neighbours(row, tile.column);
      rows.load_pulls(row, tile.column, k, near.exists, work.pulls, work.mass_pulls);
      rows.load_centres(row, tile.column, k - 1, near.exists, work.centres);
      tile_dots(tile, grid, work.centres, work.weights);
      tile_dots(tile, grid, work.pulls, work.slopes);
      if (first) rows.add_grad_assignment(row, tile, work.slopes);
      tile_softmax_gradient(tile, rows.inverse_norms(row) + tile.first, static_cast<A>(grid.kappa), near.exists, work,
                            rows.lengths(row) + tile.first);
      rows.put_shares(row, tile, k, near, work.weights, work.slopes);
      tile_sums(tile, grid, work.slopes, work.turned, near.sums);
    }
  });
}

// From the gradient (channel_stride) of f^_(k-1) to that of f_(k-1), in place.
template <typename A>
void through_norm(const A* unit, A inverse, int64_t channels, A* gradient) {
  A along = dot(gradient, unit, channels);
  if (inverse >= inverse_norm(A(0))) along = 0;  // a clamped norm has no gradient
  for (int64_t c = 0; c < channels; ++c) gradient[c] = inverse * (gradient[c] - along * unit[c]);
}

template <typename T>
void pull_row(const Rows<T, SuperpixelBackward>& rows, int64_t row, int64_t k, A_of<T>* total) {
  const SuperpixelGrid& grid = rows.grid;
  for (int64_t column = 0; column < grid.columns; ++column) {
    const int64_t region = rows.region(row, column);
    rows.add_sums(row, column, total);
    through_norm(rows.unit(row, region, k - 1), *rows.centre_norm(row, region, k - 1), grid.channels, total);
    if (k > 1) {
      put_pull(rows, row, column, k - 1, total);
    } else {
      const auto pixels = static_cast<A_of<T>>(rows.cell_pixels(row, column));
      for (int64_t c = 0; c < grid.channels; ++c) rows.pull(row, region, 0)[c] = total[c] / pixels;
    }
  }
}

template <typename T>
void finish_row(const Rows<T, SuperpixelBackward>& rows, int64_t row, const Workspace<T>& work) {
  const SuperpixelGrid& grid = rows.grid;
  rows.for_each_strip(row, work, [&](const Strip<T>& strip) {
    copy_strip<false>(rows.features(row), grid, strip);
    for (int64_t t = 0; t < strip.size; ++t) {
      const Tile<T>& tile = strip.tiles[t];
      const Neighbours<A_of<T>> near = rows.neighbours(row, tile.column);
      rows.load_factors(row, tile.column, near.exists, work.factors);
      tile_gradient(tile, grid, rows.lengths(row) + tile.first, rows.pull(row, rows.region(row, tile.column), 0),
                    rows.shares(row, tile, near.size(), 1), work.factors, grid.iterations * 2 * near.size());
    }
    copy_strip<true>(rows.grad_features(row), grid, strip);
  });
}

}  // namespace

// ---- entry points ---------------------------------------------------------------------------------------------------

void superpixel_means(const SuperpixelForward& task, int64_t begin, int64_t end, void* workspace) {
  for_each_row(task, begin, end, workspace, [](auto& rows, int64_t row, auto& work) { means_row(rows, row, work); });
}

void superpixel_accumulate(const SuperpixelForward& task, int64_t k, int64_t begin, int64_t end, void* workspace) {
  // Every other iteration goes upwards: it begins with what the one before left in the caches.
  for_each_row(task, begin, end, workspace, [=](auto& rows, int64_t row, auto& work) {
    accumulate_row(rows, k % 2 == 1 ? begin + end - 1 - row : row, k, work);
  });
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
  for_each_row(task, begin, end, workspace, [](auto& rows, int64_t row, auto& work) { finish_row(rows, row, work); });
}

}  // namespace tmt::superpixel::cpu::TMT_SIMD
