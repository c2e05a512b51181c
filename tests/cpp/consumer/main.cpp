// Uses dcn from C++: values and gradients against those of the convolution, and a sentence for a
// bad call.
#include <ATen/ATen.h>
#include <dcn/deform_conv2d.h>

#include <iostream>
#include <string>

namespace {

int failures = 0;

void expect(bool condition, const std::string& what) {
  std::cout << (condition ? "ok      " : "FAILED  ") << what << '\n';
  if (!condition) ++failures;
}

void expect_close(const at::Tensor& value, const at::Tensor& expected, const std::string& what) {
  expect(value.defined() && value.sizes() == expected.sizes() &&
             at::allclose(value, expected, /*rtol=*/1e-10, /*atol=*/1e-10),
         what);
}

at::Tensor leaf(const at::Tensor& value) { return value.detach().clone().requires_grad_(); }

// With zero offsets and a mask of ones the operator is the convolution, and so are its gradients.
void compare_with_convolution(int64_t groups) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor values = at::randn({2, 4, 7, 6}, options);
  const at::Tensor kernel = at::randn({6, 4 / groups, 3, 3}, options);
  const at::Tensor input = leaf(values), weight = leaf(kernel),
                   bias = leaf(at::randn({6}, options));
  const at::Tensor offset = leaf(at::zeros({2, 2 * 2 * 9, 4, 6}, options));
  const at::Tensor mask = leaf(at::ones({2, 2 * 9, 4, 6}, options));
  const at::Tensor out =
      dcn::deform_conv2d(input, weight, offset, mask, bias, {2, 1}, {1, 2}, {1, 2});

  const at::Tensor plain_input = leaf(values), plain_weight = leaf(kernel);
  const at::Tensor expected =
      at::conv2d(plain_input, plain_weight, bias.detach(), {2, 1}, {1, 2}, {1, 2}, groups);
  const std::string suffix = ", " + std::to_string(groups) + " groups";
  expect_close(out, expected, "output" + suffix);

  const at::Tensor grad = at::randn_like(expected);
  out.backward(grad);
  expected.backward(grad);
  expect_close(input.grad(), plain_input.grad(), "input gradient" + suffix);
  expect_close(weight.grad(), plain_weight.grad(), "weight gradient" + suffix);
  expect_close(bias.grad(), grad.sum({0, 2, 3}), "bias gradient" + suffix);
  // Each sample is its mask times a value: <mask, its gradient> is what the output is without bias.
  const at::Tensor linear = (grad * (expected - bias.view({1, 6, 1, 1}))).sum();
  expect_close((mask * mask.grad()).sum(), linear, "mask gradient" + suffix);
}

// On a ramp that rises by 3 along x, moving a sample moves its value by 3 times the move.
void move_along_a_ramp() {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor input = (3 * at::arange(8, options)).expand({1, 1, 5, 8});
  const at::Tensor offset = at::zeros({1, 2, 5, 8}, options);
  offset.select(1, 1).fill_(0.25);
  offset.requires_grad_();
  const at::Tensor out = dcn::deform_conv2d(input, at::ones({1, 1, 1, 1}, options), offset);
  const at::Tensor inner = out.slice(/*dim=*/3, 0, 7);
  expect_close(inner, (input + 0.75).slice(3, 0, 7), "a sample between two pixels");
  inner.sum().backward();
  expect_close(offset.grad().select(1, 1).slice(2, 0, 7), at::full({1, 5, 7}, 3.0, options),
               "offset gradient along x");
  expect_close(offset.grad().select(1, 0).slice(2, 0, 7).slice(1, 0, 4),
               at::zeros({1, 4, 7}, options), "offset gradient along y");
}

void refuse_a_bad_call() {
  std::string message;
  try {
    dcn::deform_conv2d(at::zeros({1, 1, 5, 5}), at::zeros({1, 1, 3, 3}), at::zeros({1, 18, 5, 5}));
  } catch (const c10::Error& error) {
    message = error.what_without_backtrace();
  }
  expect(message.find("computed output dims: (3, 3)") != std::string::npos,
         "a message: " + message);
}

}  // namespace

int main() {
  compare_with_convolution(/*groups=*/1);
  compare_with_convolution(/*groups=*/2);
  move_along_a_ramp();
  refuse_a_bad_call();
  return failures == 0 ? 0 : 1;
}
