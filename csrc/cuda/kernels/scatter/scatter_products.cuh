// The matrix products of a tile of the scatter: by wgmma in 16 bits, by mma.sync in 32.
#pragma once

#include "scatter_columns.cuh"
#include "scatter_wgmma.cuh"
#include "scatter_wgrad.cuh"

namespace dcn {

template <class Math, bool kWgmma>
class ScatterProducts : public ScatterWgmma<Math> {
 public:
  using ScatterWgmma<Math>::ScatterWgmma;
};

template <class Math>
class ScatterProducts<Math, false> {
 public:
  using Shared = ScatterShared<typename Math::Element>;

  __device__ __forceinline__ ScatterProducts(const ScatterParams& params, const ScatterTile& tile,
                                             const Shared& shared)
      : params_(params), tile_(tile), shared_(shared) {}

  __device__ __forceinline__ bool columns(int32_t first_tap, int32_t taps, int32_t block,
                                          bool wanted) const {
    return !wanted || ScatterColumns<Math>(params_, tile_, shared_).run(first_tap, taps, block);
  }
  __device__ __forceinline__ void weight(int32_t chunk, int32_t taps, int32_t block,
                                         bool fresh) const {
    ScatterWgrad<Math>(params_, tile_, shared_, fresh).run(chunk, taps, block);
  }

 private:
  const ScatterParams& params_;
  const ScatterTile& tile_;
  const Shared& shared_;
};

}  // namespace dcn
