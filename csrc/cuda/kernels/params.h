// What travels to the kernels, and the launchers. Raw pointers, one POD, a stream; no torch. A
// launcher returns the error of its launch.
#pragma once

#include <cuda_runtime_api.h>

#include "../../column_sum.h"
#include "../../plan.h"
#include "../../shape.h"

namespace dcn {

// A map per coordinate or mask value, in any dense or strided layout: element (n, channel, p, q).
struct SamplingMap {
  const void* data;  // null: no mask
  Dtype dtype;
  int64_t stride_n;
  int32_t stride_c, stride_h, stride_w;
};

// A block's output pixels: one warp plans one unit with coalesced reads of the offset maps.
constexpr int kTilePixels = 32;
constexpr int kMaxTileUnits = 16;  // keeps the planned samples of a block within 24 KB (f32)

// One chunk of output pixels: a contiguous range of the flattened (n, p, q).
struct ColumnParams {
  ConvShape shape;
  Dtype dtype;
  const void* input;  // [N, H, W, C]
  SamplingMap offset, mask;
  int32_t first_image;   // image of the chunk's first pixel
  int32_t first_pixel;   // that pixel within its image
  int32_t pixels;        // in the chunk
  int32_t vector_bytes;  // 16, 8, 4 or 2: what alignment and channel counts allow for one access
  int32_t tile_units;    // (tap, offset group) pairs a block serves, at most kMaxTileUnits
  void* columns;         // [pixels, G, R*S, C/G]
};

struct Im2colParams {
  ColumnParams chunk;
  const void* bias;  // [K], or null
  void* output;  // [pixels, K]: set to the bias, onto which the GEMM adds; unused without a bias
};

// Reads the gradient of the columns, and replaces it by the columns themselves where the weight
// gradient needs them.
struct Col2imParams {
  ColumnParams chunk;
  bool write_columns;
  void* grad_input;   // [N, H, W, C] sums in f32 (f64 for f64), added to by atomics; or null
  void* grad_offset;  // [N, 2*D*R*S, P, Q] in the offset's dtype, or null
  void* grad_mask;    // [N, D*R*S, P, Q] in the mask's dtype, or null
};

// [batch, rows, cols] to [batch, cols, rows].
struct TransposeParams {
  const void* from;
  void* to;
  Dtype from_dtype, to_dtype;  // equal, or from f32 sums to a 16-bit result
  int64_t batch;
  int32_t rows, cols;
};

// to[columns] = sum over rows of from[rows, columns].
struct ColumnSumParams {
  const void* from;
  void* to;
  void* partial;  // [column_sum_slabs(rows), columns] in f32 for 16-bit values, f64 for others
  Dtype dtype;
  int64_t rows;
  int32_t columns;
};

cudaError_t launch_im2col(const Im2colParams& params, cudaStream_t stream);
cudaError_t launch_col2im(const Col2imParams& params, cudaStream_t stream);
cudaError_t launch_column_sum(const ColumnSumParams& params, cudaStream_t stream);
cudaError_t launch_transpose(const TransposeParams& params, cudaStream_t stream);

}  // namespace dcn
