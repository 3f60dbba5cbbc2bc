/* Stand-in for the CUDA runtime: one device whose memory is the host's, filled with NaN when allocated; copies are checked
 * against the live allocations and their direction. Work runs at once, or is recorded while a stream is captured: with the addresses
 * and sizes of that moment. Calls that a capture does not allow (waiting, allocating, copying from or to memory of the host that is
 * not pinned, the default stream) fail and spoil it, as on a GPU. Behind work that waits for something outside (emu::enqueue_until, an event of
 * another stream) it stays in the stream's queue until someone looks. */
#include "emu.h"

#include "include/cuda_runtime.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

extern "C" void emu_shared_limit(const void *kernel, size_t bytes);

struct EmuGraph {
    std::vector<std::function<void()>> work;
};
struct EmuGraphExec {
    std::vector<std::function<void()>> work;
};
struct EmuStream {
    EmuGraph *capture = nullptr;
    bool spoilt = false;
    std::deque<std::function<bool()>> queue; /* each returns whether it is over */
};
struct EmuMoment {
    std::chrono::steady_clock::time_point at;
    bool fired = true;
    EmuStream *stream = nullptr;
};
struct EmuEvent {
    std::shared_ptr<EmuMoment> now = std::make_shared<EmuMoment>();
};

static std::set<EmuStream *> streams;

static std::map<const char *, size_t> live;
static std::set<const void *> pinned;
static EmuStream *capturing;
static size_t used;
static cudaError_t last_error = cudaSuccess;

static size_t device_bytes()
{
    const char *s = getenv("EMU_DEVICE_BYTES");
    return s ? strtoull(s, nullptr, 10) : static_cast<size_t>(8) << 30;
}

static int device_count()
{
    const char *s = getenv("EMU_DEVICES");
    return s ? atoi(s) : 1;
}

static cudaError_t result(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

/* For calls that may not be made while a stream is captured. */
static bool refused()
{
    if (!capturing)
        return false;
    capturing->spoilt = true;
    last_error = cudaErrorStreamCaptureUnsupported;
    return true;
}
#define NOT_WHILE_CAPTURING()                         \
    do {                                              \
        if (refused())                                \
            return cudaErrorStreamCaptureUnsupported; \
    } while (0)

/* Whether [p, p+bytes) is inside one live device allocation. */
static bool on_device(const void *p, size_t bytes)
{
    const char *c = static_cast<const char *>(p);
    auto it = live.upper_bound(c);
    if (it == live.begin())
        return false;
    --it;
    return c >= it->first && c + bytes <= it->first + it->second;
}

/* Runs what can run. Whether the queue is empty then. */
static bool drain(EmuStream *s)
{
    while (s && !s->queue.empty()) {
        std::function<bool()> front = s->queue.front();
        if (!front())
            return false;
        s->queue.pop_front();
    }
    return true;
}

static void wait_for(EmuStream *s)
{
    while (!drain(s))
        usleep(100);
}

bool emu::on_device(const void *p, size_t bytes)
{
    return ::on_device(p, bytes);
}

/* With EMU_LAZY=1 a stream does nothing before someone waits for it: what should have waited for it by an event, but does not, is too early. */
static bool lazy()
{
    const char *s = getenv("EMU_LAZY");
    return s && *s == '1';
}

void emu::enqueue(void *stream, std::function<void()> work)
{
    EmuStream *s = static_cast<EmuStream *>(stream);
    if (s && s->capture)
        s->capture->work.push_back(std::move(work));
    else if (!s && refused())
        return;
    else if (!(s && lazy()) && drain(s))
        work();
    else
        s->queue.push_back([work] { work(); return true; });
}

void emu::enqueue_until(void *stream, std::function<bool()> over)
{
    EmuStream *s = static_cast<EmuStream *>(stream);
    if (!s || s->capture)
        emu::fail({"enqueue_until", 0}, "work that waits needs a stream of its own, not captured");
    s->queue.push_back(std::move(over));
    drain(s);
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = device_count();
    return result(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

static int device_now;

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= device_count())
        return result(cudaErrorInvalidDevice);
    device_now = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = device_now;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    if (device < 0 || device >= device_count())
        return result(cudaErrorInvalidDevice);
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "emulated device");
    /* Every process has devices of its own, unless EMU_UUID names the one that all have. */
    const char *uuid = getenv("EMU_UUID");
    snprintf(prop->uuid.bytes, sizeof prop->uuid.bytes, "%s-%d", uuid ? uuid : std::to_string(getpid()).c_str(), device);
    prop->totalGlobalMem = device_bytes();
    prop->major = 8;
    prop->multiProcessorCount = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device)
{
    /* One multiprocessor: small cases have blocks enough for it. */
    *value = attr == cudaDevAttrClockRate ? 1000000 : attr == cudaDevAttrMultiProcessorCount ? 1 : 1 << 20;
    return result(device >= 0 && device < device_count() ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 0;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 0;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    *total = device_bytes();
    *free = *total > used ? *total - used : 0;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    NOT_WHILE_CAPTURING();
    if (bytes > device_bytes() - used)
        return result(cudaErrorMemoryAllocation);
    size_t size = (bytes + 255) / 256 * 256;
    void *q = size ? aligned_alloc(256, size) : nullptr;
    if (size && !q)
        return result(cudaErrorMemoryAllocation);
    if (q) {
        memset(q, 0xff, size);
        live[static_cast<char *>(q)] = size;
        used += size;
    }
    *p = q;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    if (!p)
        return cudaSuccess;
    NOT_WHILE_CAPTURING();
    auto it = live.find(static_cast<char *>(p));
    if (it == live.end())
        emu::fail({"cudaFree", 0}, "%p is not an allocation of the device", p);
    used -= it->second;
    memset(p, 0xff, it->second);
    live.erase(it);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    NOT_WHILE_CAPTURING();
    *p = malloc(bytes ? bytes : 1);
    pinned.insert(*p);
    return result(*p ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *p)
{
    NOT_WHILE_CAPTURING();
    pinned.erase(p);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (bytes && (on_device(dst, bytes) != to || on_device(src, bytes) != from))
        emu::fail({"cudaMemcpyAsync", 0}, "%zu bytes from %p to %p: kind %d does not fit the live allocations", bytes, src, dst, kind);
    if ((!to && !pinned.count(dst)) || (!from && !pinned.count(src)))
        NOT_WHILE_CAPTURING();
    emu::enqueue(stream, [=] { memmove(dst, src, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    if (bytes && !on_device(dst, bytes))
        emu::fail({"cudaMemsetAsync", 0}, "%zu bytes at %p are not one live allocation", bytes, dst);
    emu::enqueue(stream, [=] { memset(dst, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new EmuStream();
    streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (stream && drain(stream)) { /* else its work goes on when an event asks, as on a GPU */
        streams.erase(stream);
        delete stream;
    }
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    NOT_WHILE_CAPTURING();
    wait_for(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    std::shared_ptr<EmuMoment> m = event->now;
    if (!m->fired)
        drain(m->stream);
    if (stream && !stream->capture && !m->fired)
        emu::enqueue_until(stream, [m] {
            if (!m->fired)
                drain(m->stream);
            return m->fired;
        });
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    if (!stream || capturing)
        return result(cudaErrorInvalidValue);
    stream->capture = new EmuGraph();
    stream->spoilt = false;
    capturing = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    if (!stream || !stream->capture)
        return result(cudaErrorInvalidValue);
    *graph = stream->capture;
    stream->capture = nullptr;
    capturing = nullptr;
    if (!stream->spoilt)
        return cudaSuccess;
    delete *graph;
    *graph = nullptr;
    return result(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    NOT_WHILE_CAPTURING();
    *exec = new EmuGraphExec{graph->work};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    NOT_WHILE_CAPTURING();
    for (auto &w : exec->work)
        emu::enqueue(stream, w);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new EmuEvent();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    std::shared_ptr<EmuMoment> m = std::make_shared<EmuMoment>();
    auto fire = [m] {
        m->at = std::chrono::steady_clock::now();
        m->fired = true;
    };
    event->now = m;
    m->stream = stream;
    m->fired = false;
    if (stream && stream->capture)
        fire();
    else
        emu::enqueue(stream, fire);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    NOT_WHILE_CAPTURING();
    if (!event->now->fired)
        drain(event->now->stream);
    return event->now->fired ? cudaSuccess : cudaErrorNotReady; /* no error to be kept */
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    NOT_WHILE_CAPTURING();
    while (cudaEventQuery(event) != cudaSuccess)
        usleep(100);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    *ms = std::chrono::duration<float, std::milli>(end->now->at - start->now->at).count();
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    NOT_WHILE_CAPTURING();
    for (EmuStream *s : streams)
        wait_for(s);
    return cudaSuccess;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return "invalid argument";
    }
}

const char *cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }

cudaError_t cudaFuncSetAttribute(const void *func, cudaFuncAttribute attr, int value)
{
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > 227 << 10)
        return result(cudaErrorInvalidValue);
    emu_shared_limit(func, static_cast<size_t>(value));
    return cudaSuccess;
}
}
