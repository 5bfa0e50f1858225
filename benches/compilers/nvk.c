/* An NVIDIA GPU that is not there, for NVK (Mesa's driver): preloaded, this answers what the driver asks the kernel, so that it
 * opens the GPU, and runs nothing. Memory is a sparse file. What is left is the compiler; its statistics of every pipeline
 * (VK_KHR_pipeline_executable_properties) are put between @BEGIN and @END with the pipeline's handle, and with GPU_CODE=1 the
 * machine code, between @CODE and @EDOC; @NAME says which kernel the handle is (WGPU_DEBUG=1 has wgpu name them).
 *
 *   cc -shared -fPIC -o nvk.so nvk.c -ldl
 *
 * GPU_CHIPSET, GPU_CLASS and GPU_PCI, in hexadecimal, say which GPU (see statistics.py), GPU_FOLDER where its memory lies. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loader.h"

static uint32_t setting(const char *name) {
    const char *value = getenv(name);
    return value ? strtoul(value, NULL, 16) : 0;
}

/* What libdrm says of a device, as far as NVK asks. */
typedef struct { uint16_t domain; uint8_t bus, device, function; } Place;
typedef struct { uint16_t vendor, device, subvendor, subdevice; uint8_t revision; } Identity;
typedef struct { char **nodes; int available, bus; Place *place; Identity *identity; } Device;

static char path[4096];
static char *nodes[3] = {path, path, path};
static Place place = {0, 1, 0, 0};
static Identity identity = {0x10de, 0, 0x10de, 0, 0xa1};
static Device device = {nodes, 1 << 2, 0, &place, &identity};

int drmGetDevices2(uint32_t flags, Device **list, int most) {
    if (!path[0]) {
        const char *folder = getenv("GPU_FOLDER");
        snprintf(path, sizeof path, "%s/memory", folder ? folder : "/tmp");
        int file = open(path, O_CREAT | O_RDWR, 0600);
        if (file < 0 || ftruncate(file, 1ll << 40)) perror(path);
        close(file);
        identity.device = setting("GPU_PCI");
    }
    if (list && most > 0) list[0] = &device;
    return 1;
}
int drmGetDeviceFromDevId(uint64_t id, uint32_t flags, Device **found) { *found = &device; return 0; }
int drmGetDevice2(int file, uint32_t flags, Device **found) { *found = &device; return 0; }
void drmFreeDevices(Device **list, int count) {}
void drmFreeDevice(Device **one) {}

/* The kernel's calls, by their numbers in drm.h and nouveau_drm.h. Submissions are done at once: a timeline stands where the
 * last of them put it. */
enum { VERSION = 0x00, CLOSE = 0x09, CAPABILITY = 0x0c, CREATE = 0xbf, DESTROY = 0xc0, WAIT = 0xc3, RESET = 0xc4, SIGNAL = 0xc5,
       TIMELINE_WAIT = 0xca, QUERY = 0xcb, TRANSFER = 0xcc, TIMELINE_SIGNAL = 0xcd, PARAMETER = 0x40, CHANNEL = 0x42,
       FREE_CHANNEL = 0x43, OBJECTS = 0x47, VM_INIT = 0x50, VM_BIND = 0x51, EXECUTE = 0x52, ALLOCATE = 0x80 };
static uint64_t reached[1 << 20];
static uint32_t handles;
static uint64_t next_byte = 1 << 20;

static int fails(void) { errno = EINVAL; return -1; }

static int version(void *args) {
    struct { int major, minor, patch; size_t name_len; char *name; size_t date_len; char *date; size_t about_len; } *v = args;
    v->major = 1; v->minor = 4; v->patch = 0;
    if (v->name && v->name_len >= 7) memcpy(v->name, "nouveau", 7);
    v->name_len = 7; v->date_len = v->about_len = 0;
    return 0;
}
static int parameter(uint64_t *args) {
    const uint64_t known[] = {[3] = 0x10de, [4] = identity.device, [5] = 2, [8] = 64ull << 30, [9] = 1ull << 40,
                              [11] = setting("GPU_CHIPSET"), [13] = 0x4208, [14] = 1, [17] = 390, [18] = 64ull << 30, [19] = 1 << 20};
    if (args[0] >= sizeof known / sizeof *known || !known[args[0]]) return fails();
    args[1] = known[args[0]];
    return 0;
}
static int objects(uint8_t *args) {
    uint8_t *data = args + 24;
    if (args[1] == 4 && data[1] == 0) { /* what the device is */
        uint8_t *info = data + 8;
        info[1] = 3;
        *(uint16_t *)(info + 2) = setting("GPU_CHIPSET");
        *(uint64_t *)(info + 8) = *(uint64_t *)(info + 16) = 64ull << 30;
        strcpy((char *)info + 24, "chip");
    } else if (args[1] == 1) { /* its classes */
        struct { uint8_t version, count, pad[6]; struct { int32_t class; int16_t from, to; } of[]; } *classes = (void *)data;
        const int generation = setting("GPU_CLASS") << 8;
        const int all[] = {generation | 0xb5, 0x902d, generation | 0x97, 0xa140, generation | 0xc0};
        for (int i = 0; i < 5 && i < classes->count; i++) classes->of[i].class = all[i];
        classes->count = 5;
    }
    return 0;
}
static int execute(void *args) {
    struct { uint32_t channel, pushes, waits, signals; uint64_t wait, signal, push; } *e = args;
    struct { uint32_t flags, handle; uint64_t value; } *done = (void *)e->signal;
    for (uint32_t i = 0; i < e->signals; i++) reached[done[i].handle] = done[i].flags & 1 ? done[i].value : 1;
    return 0;
}
static int allocate(void *args) {
    struct { uint32_t handle, domain; uint64_t size, offset, map; } *block = args;
    block->handle = __sync_add_and_fetch(&handles, 1);
    block->offset = block->map = __sync_fetch_and_add(&next_byte, (block->size + 0xffff) & ~0xffffull);
    return 0;
}
static int timeline(void *args, int is_signal) {
    struct { uint64_t handles, points; uint32_t count, flags; } *t = args;
    uint32_t *handle = (void *)t->handles;
    uint64_t *point = (void *)t->points;
    for (uint32_t i = 0; i < t->count; i++) {
        if (is_signal) reached[handle[i]] = point[i];
        else point[i] = reached[handle[i]];
    }
    return 0;
}

int ioctl(int file, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    uint32_t *args = va_arg(list, void *);
    va_end(list);
    if ((request >> 8 & 0xff) != 'd') return syscall(SYS_ioctl, file, request, args);
    switch (request & 0xff) {
    case VERSION: return version(args);
    case CAPABILITY: ((uint64_t *)args)[1] = 1; return 0;
    case CREATE:
        args[0] = __sync_add_and_fetch(&handles, 1);
        if (args[0] >= sizeof reached / sizeof *reached) return fails();
        reached[args[0]] = args[1] & 1;
        return 0;
    case PARAMETER: return parameter((uint64_t *)args);
    case CHANNEL: args[2] = 1; args[3] = 6; return 0;
    case OBJECTS: return objects((uint8_t *)args);
    case EXECUTE: return execute(args);
    case ALLOCATE: return allocate(args);
    case TIMELINE_SIGNAL: return timeline(args, 1);
    case QUERY: return timeline(args, 0);
    case WAIT: args[8] = 0; return 0;
    case CLOSE: case DESTROY: case RESET: case SIGNAL: case TIMELINE_WAIT: case TRANSFER: case FREE_CHANNEL: case VM_INIT:
    case VM_BIND: return 0;
    default: return fails();
    }
}

/* Vulkan: the statistics. */
static PFN_vkCreateDevice next_create;
static PFN_vkCreateComputePipelines next_pipelines;
static PFN_vkGetPipelineExecutableStatisticsKHR statistics;
static PFN_vkGetPipelineExecutableInternalRepresentationsKHR representations;

static VKAPI_ATTR VkResult VKAPI_CALL create(VkPhysicalDevice gpu, const VkDeviceCreateInfo *info, Allocator a, VkDevice *made) {
    const char *names[256];
    uint32_t count = info->enabledExtensionCount;
    memcpy(names, info->ppEnabledExtensionNames, count * sizeof *names);
    names[count++] = VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME;
    VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR feature = {
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR, (void *)info->pNext, VK_TRUE};
    VkDeviceCreateInfo with = *info;
    with.pNext = &feature;
    with.enabledExtensionCount = count;
    with.ppEnabledExtensionNames = names;
    return next_create(gpu, &with, a, made);
}

static void tell_statistics(VkDevice device, const VkPipelineExecutableInfoKHR *of) {
    uint32_t count = 64;
    VkPipelineExecutableStatisticKHR all[64] = {};
    for (uint32_t i = 0; i < count; i++) all[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
    statistics(device, of, &count, all);
    for (uint32_t i = 0; i < count; i++) fprintf(stderr, "%s: %llu\n", all[i].name, (unsigned long long)all[i].value.u64);
}
static void tell_code(VkDevice device, const VkPipelineExecutableInfoKHR *of) {
    uint32_t count = 8;
    VkPipelineExecutableInternalRepresentationKHR all[8] = {};
    for (uint32_t i = 0; i < count; i++) all[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR;
    representations(device, of, &count, all);
    for (uint32_t i = 0; i < count; i++) all[i].pData = calloc(1, all[i].dataSize + 1);
    representations(device, of, &count, all);
    for (uint32_t i = 0; i < count; i++) fprintf(stderr, "@CODE %s\n%s\n@EDOC\n", all[i].name, (char *)all[i].pData);
}
static VKAPI_ATTR VkResult VKAPI_CALL pipelines(VkDevice device, VkPipelineCache cache, uint32_t count,
                                                const VkComputePipelineCreateInfo *infos, Allocator a, VkPipeline *made) {
    VkComputePipelineCreateInfo with = infos[0]; /* wgpu makes one at a time */
    with.flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR;
    if (getenv("GPU_CODE")) with.flags |= VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR;
    pthread_mutex_lock(&one_at_a_time);
    fprintf(stderr, "@BEGIN\n");
    VkResult result = next_pipelines(device, VK_NULL_HANDLE, 1, &with, a, made);
    if (result == VK_SUCCESS) {
        const VkPipelineExecutableInfoKHR of = {VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, NULL, made[0], 0};
        tell_statistics(device, &of);
        if (getenv("GPU_CODE")) tell_code(device, &of);
    }
    fprintf(stderr, "@END %p\n", (void *)made[0]);
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL of_device(VkDevice device, const char *wanted) {
    PFN_vkVoidFunction found = next_device(device, wanted);
    if (found && !strcmp(wanted, "vkSetDebugUtilsObjectNameEXT")) return (PFN_vkVoidFunction)name;
    if (strcmp(wanted, "vkCreateComputePipelines")) return found;
    next_pipelines = (PFN_vkCreateComputePipelines)found;
    statistics = (void *)next_device(device, "vkGetPipelineExecutableStatisticsKHR");
    representations = (void *)next_device(device, "vkGetPipelineExecutableInternalRepresentationsKHR");
    return (PFN_vkVoidFunction)pipelines;
}
static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL of_instance(VkInstance instance, const char *wanted) {
    PFN_vkVoidFunction found = next_instance(instance, wanted);
    if (found && !strcmp(wanted, "vkGetDeviceProcAddr")) {
        next_device = (PFN_vkGetDeviceProcAddr)found;
        return (PFN_vkVoidFunction)of_device;
    }
    if (found && !strcmp(wanted, "vkCreateDevice")) {
        next_create = (PFN_vkCreateDevice)found;
        return (PFN_vkVoidFunction)create;
    }
    return found;
}
