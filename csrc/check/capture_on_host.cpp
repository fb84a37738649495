#include <atomic>
#include <map>
#include <stdexcept>
#include <utility>

#include "cuda_on_host.h"
#include "pool_on_host.h"

namespace minillm::on_host {

// A capture of this thread.
class Capture {
 public:
    Capture(bool any, cudaStream_t stream) : any_(any), stream_(stream) {}

    bool of(cudaStream_t stream) const { return any_ || stream == stream_; }
    bool of_any() const { return any_; }
    bool spoilt() const { return spoilt_; }

    cudaError_t spoil(cudaError_t error) {
        spoilt_ = true;
        return error;
    }

    // CUDA forbids this for the stream on which all others wait, and minillm for every other too:
    // it would run before the graph does.
    cudaError_t keep(cudaStream_t stream, std::function<void()> work) {
        if (spoilt_) return cudaErrorStreamCaptureInvalidated;
        if (!of(stream)) return spoil(cudaErrorStreamCaptureImplicit);
        recording_->nodes_.push_back(std::move(work));
        return cudaSuccess;
    }

    cudaError_t allocate(void** data, size_t bytes, cudaStream_t stream) {
        const std::shared_ptr<void> memory = take_for_graph(bytes);
        if (!memory) return spoil(cudaErrorMemoryAllocation);
        void* address = *data = memory.get();
        const cudaError_t kept = keep(stream, [=] { fill_with_garbage(address, bytes); });
        if (kept == cudaSuccess) held_[address] = {memory, bytes};
        recording_->memory_.push_back(memory);
        return kept;
    }

    cudaError_t release(void* data, cudaStream_t stream) {
        const auto found = held_.find(data);
        if (found == held_.end()) return spoil(cudaErrorInvalidValue);
        const size_t bytes = found->second.bytes;
        held_.erase(found);
        return keep(stream, [=] { fill_with_garbage(data, bytes); });
    }

    std::shared_ptr<Recording> cut() {
        std::shared_ptr<Recording> done = std::exchange(recording_, std::make_shared<Recording>());
        for (const auto& [address, held] : held_) recording_->memory_.push_back(held.memory);
        return done;
    }

 private:
    struct Held {
        std::shared_ptr<void> memory;
        size_t bytes;
    };
    bool any_, spoilt_ = false;
    cudaStream_t stream_;
    std::map<void*, Held> held_;  // allocated and not released
    std::shared_ptr<Recording> recording_ = std::make_shared<Recording>();
};

namespace {

thread_local std::unique_ptr<Capture> capture;
bool refused = false;
std::atomic<int64_t> made{0}, launched{0};
std::atomic<uint64_t> asked_for{0};

Capture& captured() {
    if (!capture) throw std::runtime_error("cuda_on_host: nothing is captured");
    return *capture;
}

}  // namespace

void Recording::run() const {
    if (capture) throw std::runtime_error("cuda_on_host: a recording is run during a capture");
    for (const auto& node : nodes_) node();
}

cudaError_t perform(cudaStream_t stream, std::function<void()> work) {
    asked_for++;
    if (capture) return capture->keep(stream, std::move(work));
    work();
    return cudaSuccess;
}

uint64_t asked() { return asked_for; }

cudaError_t allocate_async(void** data, size_t bytes, cudaStream_t stream) {
    if (capture) return capture->allocate(data, bytes, stream);
    *data = take_of_pool(bytes);
    return *data ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t free_async(void* data, cudaStream_t stream) {
    if (capture) return capture->release(data, stream);
    give_to_pool(data);
    return cudaSuccess;
}

void begin_capture() {
    if (capture) throw std::runtime_error("cuda_on_host: this thread captures already");
    capture = std::make_unique<Capture>(true, nullptr);
}

std::shared_ptr<Recording> cut() {
    if (captured().spoilt())
        throw std::runtime_error("cuda_on_host: cudaErrorStreamCaptureInvalidated");
    return capture->cut();
}

std::shared_ptr<Recording> end_capture() {
    captured();
    const std::unique_ptr<Capture> done(capture.release());
    if (done->spoilt()) throw std::runtime_error("cuda_on_host: cudaErrorStreamCaptureInvalidated");
    return done->cut();
}

void refuse_captures(bool wanted) { refused = wanted; }
int64_t graphs() { return made; }
int64_t launched_graphs() { return launched; }

cudaError_t forbidden_in_capture() {
    return capture ? capture->spoil(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

}  // namespace minillm::on_host

using namespace minillm::on_host;

const char* cudaGetErrorName(cudaError_t code) {
    switch (code) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation:
            return "cudaErrorMemoryAllocation";
        case cudaErrorIllegalState:
            return "cudaErrorIllegalState";
        case cudaErrorStreamCaptureUnsupported:
            return "cudaErrorStreamCaptureUnsupported";
        case cudaErrorStreamCaptureInvalidated:
            return "cudaErrorStreamCaptureInvalidated";
        case cudaErrorStreamCaptureImplicit:
            return "cudaErrorStreamCaptureImplicit";
    }
    return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t code) {
    return code == cudaErrorMemoryAllocation ? "out of memory" : "played by the host";
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = new char;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete static_cast<char*>(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    const bool captured = capture && capture->of(stream);
    *status = captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (!stream || refused) return cudaErrorStreamCaptureUnsupported;
    if (capture) return cudaErrorIllegalState;
    capture = std::make_unique<Capture>(false, stream);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    *graph = nullptr;
    if (!capture || capture->of_any() || !capture->of(stream)) return cudaErrorIllegalState;
    const std::unique_ptr<Capture> done(capture.release());
    if (done->spoilt()) return cudaErrorStreamCaptureInvalidated;
    *graph = new MinillmGraph{done->cut()};
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph,
                                          unsigned long long) {
    *exec = new MinillmGraphExec{graph->recording};
    made++;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    launched++;
    return perform(stream, [recording = exec->recording] { recording->run(); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    made--;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return forbidden_in_capture(); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = new char;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete static_cast<char*>(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return forbidden_in_capture(); }

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
    return forbidden_in_capture();
}
