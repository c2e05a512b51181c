# CUDA: host files that know torch, and kernels that do not (they compile in seconds).
target_sources(dcn PRIVATE
  csrc/cuda/deform_conv2d.cpp csrc/cuda/device_info.cpp csrc/cuda/gemm.cpp csrc/cuda/im2col_gemm.cpp csrc/cuda/layout.cpp
  csrc/cuda/kernels/im2col.cu csrc/cuda/kernels/col2im.cu csrc/cuda/kernels/column_sum.cu
  csrc/cuda/kernels/layout.cu)
target_link_libraries(dcn PRIVATE CUDA::cudart CUDA::cublas)
target_compile_options(dcn PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills --expt-relaxed-constexpr>)
