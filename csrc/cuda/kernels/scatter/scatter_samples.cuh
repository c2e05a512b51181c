// The samples of a tile of the scatter: what a lane does for each.
#pragma once

#include "scatter_rest.cuh"

namespace dcn {

// kWanted: the gradients of a usual call; a tile then knows where its maps are (UsualTile).
template <class Math, int kWanted = 0>
class ScatterSamples : public ScatterSampling<Math> {
 public:
  using Base = ScatterSampling<Math>;
  using Base::add_dots, Base::count, Base::first_map, Base::place, Base::reads_image;
  using Base::Base;
  using Base::kBinBits, Base::kNowhere, Base::plane;
  using Base::kTurns, Base::kVectors, Base::kOffset, Base::kMask, Base::kInput, Base::kWeight;
  using Base::params_, Base::shared_, Base::tile_;
  using Base::set_landed, Base::store_value, Base::value_weights, Base::wanted;
  using typename Base::Block;
  using typename Base::Element;
  using typename Base::Pixel;
  using typename Base::Shared;

  // Where these taps are, for all threads; they may read it behind the next barrier.
  __device__ __forceinline__ void begin(int32_t first_tap, int32_t taps) const {
    const int32_t own = threadIdx.x;
    if (own >= taps) return;
    const ConvShape& shape = params_.shape;
    const int32_t r = params_.kernel_width.quotient(first_tap + own);
    const int32_t s = first_tap + own - r * shape.S;
    shared_.tap_place()[own] =
        make_float2(static_cast<float>(r * shape.dil_h), static_cast<float>(s * shape.dil_w));
  }

  // Has the window of the image on its way, for all threads.
  __device__ __forceinline__ void fetch_image(int32_t block) const {
    if (!reads_image()) return;
    const ConvShape& shape = params_.shape;
    const Block* const image = plane(block);
    const int32_t pixels = params_.window.pixels(), bin_y = tile_.bin_y, bin_x = tile_.bin_x;
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < pixels; i += kScatterThreads) {
      const int32_t row = params_.window_columns.quotient(i);
      const int32_t y = bin_y + row;
      const int32_t x = bin_x + i - row * static_cast<int32_t>(params_.window_columns.value);
      const bool inside = static_cast<uint32_t>(y) < static_cast<uint32_t>(shape.H) &&
                          static_cast<uint32_t>(x) < static_cast<uint32_t>(shape.W);
      const auto* from = reinterpret_cast<const uint4*>(image + (inside ? y * shape.W + x : 0));
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        ptx::copy_vector_or_zeros(ptx::shared_address(shared_.image() + v * pixels + i), from + v,
                                  inside);
      }
    }
  }

  // The offset and mask gradients, and values; of the input gradient what no list has. The first
  // block counts the samples by bin, from numbers of 0 on. `finite`: all of the gradient's columns
  // are.
  __device__ __forceinline__ void run(int32_t first_tap, int32_t taps, int32_t block,
                                      bool finite) const {
    const Pixel own(params_.shape, tile_);
    uint32_t left = (1u << taps) - 1;  // taps, of this warp
    if (finite && params_.blocks.count == 1 && __all_sync(~0u, own.exists)) {
      const bool wide = params_.offset.dtype == Dtype::kF32 &&
                        (params_.mask.data == nullptr || params_.mask.dtype == Dtype::kF32);
      constexpr int kAll = kOffset | kMask | kInput | kWeight;
      if constexpr (kUsual) {
        left = run_core<false, kWanted>(own, first_tap, taps);
      } else if (sizeof(Element) == 2 && !wide) {
        left = run_core<false, 0>(own, first_tap, taps);
      } else if (wanted() == kAll) {
        left = run_core<true, kAll>(own, first_tap, taps);
      } else {
        left = run_core<true, 0>(own, first_tap, taps);
      }
    }
    if (left == 0) return;
    ScatterRest<Math>(params_, tile_, shared_).run(own, plane(block), first_tap, taps, block, left);
  }

  // The samples into the lists, once it is known where these begin.
  __device__ __forceinline__ void list(int32_t taps) const {
    const Pixel own(params_.shape, tile_);
    if (!own.exists) return;
    for (int32_t tap = own.turn; tap < taps; tap += kTurns) {
      const int32_t i = own.sample(tap);
      const uint32_t landed = shared_.landed()[i];
      if (landed == kNowhere) continue;
      const uint32_t begin = BinList::begin_of(shared_.lists()[landed & ((1u << kBinBits) - 1)]);
      shared_.list()[begin + (landed >> kBinBits)] = static_cast<uint16_t>(i);
    }
  }

 private:
  static constexpr bool kUsual = kWanted != 0;

  template <bool kWide>
  __device__ __forceinline__ ScatterMaps<Math, kWide> maps_of(const Pixel& own,
                                                              int32_t first_tap) const {
    if constexpr (kUsual) {
      const auto& places = static_cast<const UsualTile&>(tile_).maps;
      return {params_,
              places.moved(params_, own.at.p - tile_.p, own.at.q - tile_.q, own.turn,
                           map_size(params_.offset), map_size(params_.mask)),
              kTurns};
    } else {
      return {params_, own.at, first_map(own, first_tap), kTurns};
    }
  }

  // The taps whose samples are all of the core, and finite; returns the others. kWants: the
  // gradients wanted, where it is known before.
  template <bool kWide, int kWants>
  __device__ __forceinline__ uint32_t run_core(const Pixel& own, int32_t first_tap,
                                               int32_t taps) const {
    if (own.turn >= taps) return 0;
    ScatterMaps<Math, kWide> maps = maps_of<kWide>(own, first_tap);
    const ScatterCore core(params_, tile_);
    const auto origin_y = static_cast<float>(params_.shape.origin_y(own.at.p, 0));
    const auto origin_x = static_cast<float>(params_.shape.origin_x(own.at.q, 0));
    const int wants = kWants != 0 ? kWants : ptx::unkept(wanted());
    const int32_t bin_y = tile_.bin_y, bin_x = tile_.bin_x;
    uint32_t left = 0;
    LoadedMaps next = maps.next();
#pragma unroll 1
    for (int32_t tap = own.turn; tap < taps; tap += kTurns) {
      // Whole numbers, as long as offsets are not added.
      const float2 place = shared_.tap_place()[tap];
      const float y = (origin_y + place.x) + maps.dy(next);
      const float x = (origin_x + place.y) + maps.dx(next);
      const float mask = maps.mask(next);
      if (tap + kTurns < taps) next = maps.next();
      if (__all_sync(~0u, core.has(y, x, mask))) {
        core_sample(maps, own.sample(tap), y, x, mask, wants, bin_y, bin_x);
      } else {
        left |= 1u << tap;
      }
      maps.next_gradients();
    }
    return left;
  }

  template <class Maps>
  __device__ __forceinline__ void core_sample(const Maps& maps, int32_t i, float y, float x,
                                              float mask, int wants, int32_t bin_y,
                                              int32_t bin_x) const {
    const WindowSample at = window_sample(y, x, bin_y, bin_x);
    const float ly = at.ly, lx = at.lx;
    const auto down = static_cast<int32_t>(at.row);
    const int32_t bin = down * params_.window.columns + static_cast<int32_t>(at.column);
    // Asked for early, where there are registers to keep it in: it takes a while.
    uint32_t rank;
    if constexpr (kUsual) rank = count(bin);
    if ((wants & (kOffset | kMask | kWeight)) != 0) {
      const uint4* const top = shared_.image() + (bin + down);  // a row has one more pixel
      const uint4* const bottom = top + (params_.window.columns + 1);
      const int32_t pixels = params_.window.pixels();
      uint4 weight;
      if ((wants & kWeight) != 0) weight = value_weights(ly, lx, mask);
      float dot[4] = {};
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const uint4 corner[4] = {top[v * pixels], top[v * pixels + 1], bottom[v * pixels],
                                 bottom[v * pixels + 1]};
        if ((wants & kWeight) != 0) store_value(i, v, corner, weight);
        if ((wants & (kOffset | kMask)) != 0) {
          float gradient[Shared::kVectorChannels];
          shared_.load_gradient(i, v, gradient);
          add_dots(gradient, corner, dot);
        }
      }
      if ((wants & (kOffset | kMask)) != 0) {
        const SamplingGradients result(dot, ly, lx, mask);
        if ((wants & kOffset) != 0) maps.store_offset(result.dy, result.dx);
        if ((wants & kMask) != 0) maps.store_mask(result.mask);
      }
    }
    if ((wants & kInput) != 0) {
      if constexpr (!kUsual) rank = count(bin);
      set_landed(i, bin, rank);
      place(i, ly, lx, mask);
    }
  }
};

}  // namespace dcn
