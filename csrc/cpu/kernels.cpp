// The vector kernels, compiled once per instruction set: CPU_CAPABILITY names it, as PyTorch's own
// kernels do.
#include "kernels.h"

#include "columns.h"
#include "sampling.h"
#include "transfer.h"

#define DCN_PASTE(a, b) a##b
#define DCN_TABLE_OF(capability) DCN_PASTE(kKernels, capability)
#define DCN_TEXT(a) #a
#define DCN_NAME_OF(capability) DCN_TEXT(capability)

namespace dcn::cpu {
namespace {

template <typename Element>
constexpr Kernels<Element> kernels_of() {
  using Acc = AccType<Element>;
  return {plan_samples<Element>,
          reached_rows<Element>,
          gather<Element>,
          differentiate<Element>,
          copy_transposed<Element, Element>,
          copy_rows<Element, Acc>,
          copy_transposed<Element, Acc>,
          copy_rows<Acc, Element>,
          copy_transposed<Acc, Element>,
          copy_rows<Acc, Acc>,
          copy_transposed<Acc, Acc>};
}

}  // namespace

extern const KernelTable DCN_TABLE_OF(CPU_CAPABILITY) = {
    DCN_NAME_OF(CPU_CAPABILITY), kVectorBytes,       kernels_of<double>(),
    kernels_of<float>(),         kernels_of<Half>(), kernels_of<BFloat16>()};

}  // namespace dcn::cpu
