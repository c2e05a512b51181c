# Imports LibTorch from the folder that holds its include/ and lib/, as one target: dcn_torch.
#
# Torch's own package file is not used: it overwrites the CUDA architectures, appends -gencode flags that newer compilers refuse,
# and fails where torch was built for CUDA but no CUDA toolkit is installed. Here a toolkit is needed only to compile kernels.
function(dcn_import_torch torch_dir with_cuda)
  if(TARGET dcn_torch)
    return()
  endif()
  if(NOT EXISTS "${torch_dir}/lib/libtorch_cpu.so")
    message(FATAL_ERROR "No LibTorch in '${torch_dir}': set DCN_TORCH_DIR to the folder that holds "
                        "torch's include and lib (python -c 'import torch; print(torch.__path__[0])')")
  endif()
  add_library(dcn_torch INTERFACE IMPORTED GLOBAL)
  target_include_directories(dcn_torch SYSTEM INTERFACE
    "${torch_dir}/include" "${torch_dir}/include/torch/csrc/api/include")
  target_compile_definitions(dcn_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
  target_link_libraries(dcn_torch INTERFACE
    "${torch_dir}/lib/libtorch_cpu.so" "${torch_dir}/lib/libc10.so")
  # Torch's libraries find their own dependencies at run time; an executable's link step need not.
  target_link_options(dcn_torch INTERFACE "LINKER:--allow-shlib-undefined")
  if(with_cuda)
    # Nothing in a program need name a symbol of torch_cuda for it to be loaded: its kernels register themselves.
    target_link_libraries(dcn_torch INTERFACE
      "-Wl,--no-as-needed" "${torch_dir}/lib/libtorch_cuda.so" "${torch_dir}/lib/libc10_cuda.so"
      "-Wl,--as-needed")
  endif()
endfunction()
