# CUDA: host files that know torch, and kernels that do not (they compile in seconds).
target_sources(dcn PRIVATE
  csrc/cuda/bias_gradient.cpp csrc/cuda/deform_conv2d.cpp csrc/cuda/device_info.cpp
  csrc/cuda/fixed_point_sums.cpp
  csrc/cuda/fused.cpp csrc/cuda/fused_backward.cpp csrc/cuda/gemm.cpp csrc/cuda/im2col_gemm.cpp
  csrc/cuda/layout.cpp csrc/cuda/padded_nhwc.cpp csrc/cuda/scatter_backward.cpp)
set(kernels csrc/cuda/kernels)
target_sources(dcn PRIVATE
  ${kernels}/im2col/col2im.cu ${kernels}/im2col/column_sum.cu ${kernels}/im2col/fixed_point.cu
  ${kernels}/im2col/im2col.cu
  ${kernels}/layout/layout.cu ${kernels}/layout/pack_weight.cu ${kernels}/layout/pad_channels.cu
  ${kernels}/landing/landing_lists.cu ${kernels}/landing/landing_planes.cu
  ${kernels}/landing/landing_sort.cu
  ${kernels}/fprop/fprop_sm80.cu ${kernels}/fprop/fprop_sm90.cu
  ${kernels}/dgrad/dgrad_sm90.cu ${kernels}/ograd/ograd_sm90.cu ${kernels}/owgrad/owgrad_sm90.cu
  ${kernels}/wgrad/wgrad_sm90.cu ${kernels}/scatter/scatter.cu)
foreach(math f16 bf16 tf32 3xtf32)
  target_sources(dcn PRIVATE ${kernels}/fprop/fprop_sm80_${math}.cu)
endforeach()
# wgmma has no form that runs on another architecture than 9.0, and clusters none on older ones.
add_library(dcn_sm90 OBJECT
  ${kernels}/owgrad/owgrad_sm90_f16.cu ${kernels}/owgrad/owgrad_sm90_bf16.cu
  ${kernels}/owgrad/owgrad_sum.cu ${kernels}/wgrad/wgrad_sum.cu
  ${kernels}/layout/image_planes.cu ${kernels}/scatter/scatter_weight.cu
  ${kernels}/landing/landing_heavy.cu)
foreach(math f16 bf16 tf32 3xtf32)
  foreach(kernel fprop dgrad ograd wgrad)
    target_sources(dcn_sm90 PRIVATE ${kernels}/${kernel}/${kernel}_sm90_${math}.cu)
  endforeach()
  target_sources(dcn_sm90 PRIVATE
    ${kernels}/fprop/fprop_merged_sm90_${math}.cu ${kernels}/scatter/scatter_${math}.cu)
endforeach()
set_target_properties(dcn_sm90 PROPERTIES CUDA_ARCHITECTURES 90a-real POSITION_INDEPENDENT_CODE ON)
target_compile_options(dcn_sm90 PRIVATE -Xptxas=-warn-spills --expt-relaxed-constexpr)
target_sources(dcn PRIVATE $<TARGET_OBJECTS:dcn_sm90>)
# A kernel that spills registers fails the build. These spill 2 to 60 bytes, in tiles that measured
# quicker than without (more values in flight) or that no plan of the ten layers takes.
set(may_spill col2im im2col fprop_sm80_f16 fprop_sm80_bf16 fprop_sm90_tf32 dgrad_sm90_f16
  dgrad_sm90_bf16 dgrad_sm90_3xtf32 ograd_sm90_tf32 owgrad_sm90_f16 owgrad_sm90_bf16 scatter_f16
  scatter_bf16 scatter_3xtf32 wgrad_sm90_tf32 wgrad_sm90_3xtf32)
foreach(target dcn dcn_sm90)
  get_target_property(sources ${target} SOURCES)
  foreach(source ${sources})
    get_filename_component(name "${source}" NAME_WE)
    if(source MATCHES "\\.cu$" AND NOT name IN_LIST may_spill)
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS -Xptxas=-Werror)
    endif()
  endforeach()
endforeach()
target_link_libraries(dcn PRIVATE CUDA::cudart CUDA::cublas)
target_compile_options(dcn PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills --expt-relaxed-constexpr>)
