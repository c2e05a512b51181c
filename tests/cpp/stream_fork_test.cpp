// Order between streams, made visible with host functions that sleep: what must come later would
// otherwise come first.
#include "cuda/stream_fork.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <chrono>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace dcn {
namespace {

constexpr int kLanes = 4;
constexpr size_t kBytes = 1 << 20;

void sleep_on(cudaStream_t stream) {
  const auto nap = [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(100)); };
  ASSERT_EQ(cudaLaunchHostFunc(stream, nap, nullptr), cudaSuccess);
}

class StreamForkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "no GPU on this machine";
    }
    ASSERT_EQ(cudaMalloc(&source_, kBytes), cudaSuccess);
    ASSERT_EQ(cudaMalloc(&target_, kLanes * kBytes), cudaSuccess);
    ASSERT_EQ(cudaMemset(source_, 0, kBytes), cudaSuccess);
    ASSERT_EQ(cudaMemset(target_, 0, kLanes * kBytes), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  void TearDown() override {
    cudaFree(source_);
    cudaFree(target_);
  }

  char* slice(int lane) const { return static_cast<char*>(target_) + lane * kBytes; }
  void copy_to_slice(int lane, cudaStream_t stream) {
    ASSERT_EQ(cudaMemcpyAsync(slice(lane), source_, kBytes, cudaMemcpyDeviceToDevice, stream),
              cudaSuccess);
  }
  // Reads through `stream`, so only what this stream waits for is sure to be seen.
  char last_byte(int lane, cudaStream_t stream) {
    char byte = 0;
    cudaMemcpyAsync(&byte, slice(lane) + kBytes - 1, 1, cudaMemcpyDeviceToHost, stream);
    cudaStreamSynchronize(stream);
    return byte;
  }

  void* source_ = nullptr;
  void* target_ = nullptr;
};

TEST_F(StreamForkTest, OneLaneIsTheCallersStream) {
  const auto caller = c10::cuda::getStreamFromPool();
  for (const int lanes : {0, 1}) {
    StreamFork fork(caller, lanes);
    EXPECT_EQ(fork.lanes(), 1);
    EXPECT_EQ(fork.lane(0), caller);
  }
}

TEST_F(StreamForkTest, LanesAreDifferentStreams) {
  const auto caller = c10::cuda::getStreamFromPool();
  StreamFork fork(caller, kLanes);
  ASSERT_EQ(fork.lanes(), kLanes);
  EXPECT_EQ(fork.lane(0), caller);
  std::set<cudaStream_t> streams;
  for (int i = 0; i < kLanes; ++i) streams.insert(fork.lane(i).stream());
  EXPECT_EQ(streams.size(), static_cast<size_t>(kLanes));
}

// More draws than the pool has streams, so that its turn comes past the caller's stream.
TEST_F(StreamForkTest, LanesAreNeverTheCallersStream) {
  const auto caller = c10::cuda::getStreamFromPool();
  for (int turn = 0; turn < 40; ++turn) {
    StreamFork fork(caller, kLanes);
    std::set<cudaStream_t> streams;
    for (int i = 0; i < kLanes; ++i) streams.insert(fork.lane(i).stream());
    EXPECT_EQ(streams.size(), static_cast<size_t>(kLanes)) << "fork " << turn;
  }
}

// Streams as values, compared and never used: no GPU is needed.
c10::cuda::CUDAStream stream_numbered(int id) {
  const c10::Device device(c10::DeviceType::CUDA, 0);
  return c10::cuda::CUDAStream(c10::Stream(c10::Stream::UNSAFE, device, id));
}

TEST(StreamBeside, PassesOverWhatIsTaken) {
  int next = 5;
  const auto draw = [&] { return stream_numbered(next++ % 32); };
  const std::vector<c10::cuda::CUDAStream> taken{stream_numbered(5), stream_numbered(6),
                                                 stream_numbered(8)};
  EXPECT_EQ(stream_beside(taken, draw), stream_numbered(7));
  EXPECT_EQ(stream_beside(taken, draw), stream_numbered(9));
}

TEST(StreamBeside, GivesUpAfterOneTurn) {
  std::vector<c10::cuda::CUDAStream> taken;
  for (int id = 0; id < 32; ++id) taken.push_back(stream_numbered(id));
  int draws = 0;
  const auto draw = [&] { return stream_numbered(draws++ % 32); };
  EXPECT_EQ(stream_beside(taken, draw), stream_numbered(31));
  EXPECT_EQ(draws, 32);
}

TEST_F(StreamForkTest, LanesWaitForTheCaller) {
  const auto caller = c10::cuda::getStreamFromPool();
  sleep_on(caller);
  ASSERT_EQ(cudaMemsetAsync(source_, 7, kBytes, caller), cudaSuccess);
  StreamFork fork(caller, kLanes);
  for (int i = 0; i < kLanes; ++i) copy_to_slice(i, fork.lane(i));
  for (int i = 0; i < kLanes; ++i) EXPECT_EQ(last_byte(i, fork.lane(i)), 7) << "lane " << i;
}

TEST_F(StreamForkTest, TheCallerWaitsForTheLanes) {
  const auto caller = c10::cuda::getStreamFromPool();
  {
    StreamFork fork(caller, kLanes);
    for (int i = 0; i < kLanes; ++i) {
      sleep_on(fork.lane(i));
      ASSERT_EQ(cudaMemsetAsync(slice(i), 5, kBytes, fork.lane(i)), cudaSuccess);
    }
  }
  for (int i = 0; i < kLanes; ++i) EXPECT_EQ(last_byte(i, caller), 5) << "lane " << i;
}

TEST_F(StreamForkTest, TheCallerWaitsAlsoAfterAnException) {
  const auto caller = c10::cuda::getStreamFromPool();
  try {
    StreamFork fork(caller, 2);
    sleep_on(fork.lane(1));
    ASSERT_EQ(cudaMemsetAsync(slice(1), 5, kBytes, fork.lane(1)), cudaSuccess);
    throw std::runtime_error("as out of memory would");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(last_byte(1, caller), 5);
}

TEST_F(StreamForkTest, LanesRunBesideEachOther) {
  const auto caller = c10::cuda::getStreamFromPool();
  const auto start = std::chrono::steady_clock::now();
  {
    StreamFork fork(caller, 2);
    // Lane 1 is done while lane 0 still sleeps: it does not queue behind it.
    sleep_on(fork.lane(0));
    ASSERT_EQ(cudaMemsetAsync(slice(1), 3, kBytes, fork.lane(1)), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(fork.lane(1)), cudaSuccess);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(90));
  }
  ASSERT_EQ(cudaStreamSynchronize(caller), cudaSuccess);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(100));
}

TEST_F(StreamForkTest, IsLegalUnderCapture) {
  const auto caller = c10::cuda::getStreamFromPool();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(caller, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  {
    StreamFork fork(caller, kLanes);
    for (int i = 0; i < kLanes; ++i) {
      ASSERT_EQ(cudaMemsetAsync(slice(i), 9, kBytes, fork.lane(i)), cudaSuccess);
    }
  }
  ASSERT_EQ(cudaStreamEndCapture(caller, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  EXPECT_EQ(last_byte(kLanes - 1, caller), 0);  // captured, not run
  ASSERT_EQ(cudaGraphLaunch(executable, caller), cudaSuccess);
  for (int i = 0; i < kLanes; ++i) EXPECT_EQ(last_byte(i, caller), 9) << "lane " << i;
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

}  // namespace
}  // namespace dcn
