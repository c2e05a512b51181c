# CUDA: host files that know torch, and kernels that do not (they compile in seconds).
target_sources(dcn PRIVATE
  csrc/cuda/bias_gradient.cpp csrc/cuda/deform_conv2d.cpp csrc/cuda/device_info.cpp
  csrc/cuda/fused.cpp csrc/cuda/fused_backward.cpp csrc/cuda/gemm.cpp csrc/cuda/im2col_gemm.cpp
  csrc/cuda/layout.cpp csrc/cuda/padded_nhwc.cpp csrc/cuda/scatter_backward.cpp
  csrc/cuda/kernels/col2im.cu csrc/cuda/kernels/column_sum.cu csrc/cuda/kernels/im2col.cu
  csrc/cuda/kernels/layout.cu csrc/cuda/kernels/pack_weight.cu csrc/cuda/kernels/pad_channels.cu
  csrc/cuda/kernels/landing_heavy.cu
  csrc/cuda/kernels/landing_lists.cu
  csrc/cuda/kernels/landing_planes.cu
  csrc/cuda/kernels/landing_sort.cu
  csrc/cuda/kernels/fprop_sm80.cu csrc/cuda/kernels/fprop_sm90.cu
  csrc/cuda/kernels/dgrad_sm90.cu csrc/cuda/kernels/ograd_sm90.cu csrc/cuda/kernels/owgrad_sm90.cu
  csrc/cuda/kernels/wgrad_sm90.cu csrc/cuda/kernels/scatter.cu)
foreach(math f16 bf16 tf32 3xtf32)
  target_sources(dcn PRIVATE csrc/cuda/kernels/fprop_sm80_${math}.cu)
endforeach()
# wgmma has no form that runs on another architecture than 9.0.
add_library(dcn_sm90 OBJECT
  csrc/cuda/kernels/owgrad_sm90_f16.cu csrc/cuda/kernels/owgrad_sm90_bf16.cu
  csrc/cuda/kernels/owgrad_sum.cu csrc/cuda/kernels/wgrad_sum.cu
  csrc/cuda/kernels/image_planes.cu csrc/cuda/kernels/scatter_weight.cu)
foreach(math f16 bf16 tf32 3xtf32)
  foreach(kernel fprop dgrad ograd wgrad)
    target_sources(dcn_sm90 PRIVATE csrc/cuda/kernels/${kernel}_sm90_${math}.cu)
  endforeach()
  target_sources(dcn_sm90 PRIVATE
    csrc/cuda/kernels/scatter_${math}.cu)
endforeach()
set_target_properties(dcn_sm90 PROPERTIES CUDA_ARCHITECTURES 90a-real POSITION_INDEPENDENT_CODE ON)
target_compile_options(dcn_sm90 PRIVATE -Xptxas=-warn-spills --expt-relaxed-constexpr)
target_sources(dcn PRIVATE $<TARGET_OBJECTS:dcn_sm90>)
target_link_libraries(dcn PRIVATE CUDA::cudart CUDA::cublas)
target_compile_options(dcn PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills --expt-relaxed-constexpr>)
