// Runs an AOTInductor package: run_package MODEL.pt2 DEVICE INPUT OUTPUT N C H W
// INPUT and OUTPUT are files of f32 values, the input of shape [N, C, H, W].
//
// No function of dcn is called here: the package names its operators, which libdcn registers.
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <fstream>
#include <iostream>
#include <string>

int main(int argc, char** argv) {
  if (argc != 9) {
    std::cerr << "usage: run_package MODEL.pt2 DEVICE INPUT OUTPUT N C H W\n";
    return 2;
  }
  const std::string package = argv[1], device = argv[2], input_file = argv[3];
  at::Tensor input = at::empty(
      {std::stoll(argv[5]), std::stoll(argv[6]), std::stoll(argv[7]), std::stoll(argv[8])},
      at::kFloat);
  std::ifstream stream(input_file, std::ios::binary);
  if (!stream.read(static_cast<char*>(input.mutable_data_ptr()), input.nbytes())) {
    std::cerr << input_file << " does not hold " << input.numel() << " f32 values\n";
    return 1;
  }

  torch::inductor::AOTIModelPackageLoader model(package);
  const at::Tensor output = model.run({input.to(at::Device(device))}).at(0).cpu().contiguous();

  std::ofstream(argv[4], std::ios::binary)
      .write(static_cast<const char*>(output.const_data_ptr()), output.nbytes());
  return 0;
}
