// What the launchers of owgrad share.
#pragma once

#include "owgrad_params.h"
#include "../wgrad/wgrad_launch.h"

namespace dcn {

cudaError_t launch_owgrad_sum(const OwgradParams& params, cudaStream_t stream);

}  // namespace dcn
