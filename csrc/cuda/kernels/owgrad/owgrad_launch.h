// What the launchers of owgrad share.
#pragma once

#include "../wgrad/wgrad_launch.h"
#include "owgrad_params.h"

namespace dcn {

cudaError_t launch_owgrad_sum(const OwgradParams& params, cudaStream_t stream);

}  // namespace dcn
