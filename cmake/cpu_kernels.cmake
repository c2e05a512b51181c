# CPU: the operators, and the vector kernels compiled once per instruction set.
#
# -O3 in every build type: the kernels rely on loops becoming vectors, and on inlining to keep their objects free of shared
# symbols. No trapping and no errno: neither changes a value, and both stand in the way of vectors.
# at::parallel_for is a template, so its OpenMP code is compiled here. GNU's runtime comes with torch, and must be the same one:
# a second runtime would have threads of its own.
find_package(OpenMP REQUIRED COMPONENTS CXX)
target_compile_options(dcn PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${OpenMP_CXX_FLAGS}>)
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_link_libraries(dcn PRIVATE OpenMP::OpenMP_CXX)
endif()

set(DCN_KERNEL_FLAGS -O3 -fno-trapping-math -fno-math-errno -ffp-contract=fast
    -Wno-psabi)
set(DCN_CAPABILITIES DEFAULT)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND DCN_CAPABILITIES AVX2 AVX512)
endif()
set(DCN_FLAGS_AVX2 -mavx2 -mfma -mf16c)
set(DCN_FLAGS_AVX512 -mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx2 -mfma -mf16c
    -mprefer-vector-width=512)

set(dcn_cpu_kernels "")
foreach(capability IN LISTS DCN_CAPABILITIES)
  set(target dcn_cpu_kernels_${capability})
  add_library(${target} OBJECT csrc/cpu/kernels.cpp)
  target_compile_options(${target} PRIVATE -Wall -Wextra ${DCN_KERNEL_FLAGS} ${DCN_FLAGS_${capability}})
  target_compile_definitions(${target} PRIVATE CPU_CAPABILITY=${capability})
  if(NOT capability STREQUAL "DEFAULT")
    target_compile_definitions(${target} PRIVATE CPU_CAPABILITY_${capability})
  endif()
  list(APPEND dcn_cpu_kernels $<TARGET_OBJECTS:${target}>)
endforeach()

target_sources(dcn PRIVATE
  csrc/cpu/backward.cpp csrc/cpu/capability.cpp csrc/cpu/deform_conv2d.cpp csrc/cpu/forward.cpp
  csrc/cpu/gemm.cpp csrc/cpu/image_gradient.cpp csrc/cpu/nhwc.cpp csrc/cpu/problem.cpp
  csrc/cpu/tiling.cpp csrc/cpu/weights.cpp
  ${dcn_cpu_kernels})

# No inline function may leave an object that is compiled for newer processors: the linker could pick it for everybody.
if(DCN_TESTS AND CMAKE_NM)
  enable_testing()
  add_test(NAME cpu_kernels_share_no_symbol
    COMMAND sh -c "! \"$0\" \"$@\" | grep -E ' [VWvwu] '" ${CMAKE_NM} ${dcn_cpu_kernels}
    COMMAND_EXPAND_LISTS)
endif()
