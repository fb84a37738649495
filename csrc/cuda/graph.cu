#include "graph.h"

namespace minillm::device {

Graph::~Graph() {
    if (made_) cudaGraphExecDestroy(made_);
}

void Graph::launch() const { check(cudaGraphLaunch(made_, current_stream()), "graph"); }

void Graph::end_without_result(cudaStream_t stream) {
    cudaGraph_t part = nullptr;
    cudaStreamEndCapture(stream, &part);
    if (part) cudaGraphDestroy(part);
#ifndef MINILLM_CUDA_ON_HOST
    cudaGetLastError();
#endif
}

void Graph::instantiate(cudaStream_t stream) {
    cudaGraph_t captured = nullptr;
    check(cudaStreamEndCapture(stream, &captured), "capture");
    const cudaError_t code = cudaGraphInstantiateWithFlags(&made_, captured, 0);
    cudaGraphDestroy(captured);
    check(code, "graph");
}

}  // namespace minillm::device
