/* A GPU that is not there: what libdrm and the kernel answer for it, and the statistics that the driver gives of every pipeline.
 *
 * Preloaded, a driver of Mesa opens the GPU and runs nothing. Its memory is a sparse file, submissions are done at once, and what
 * is left is the compiler. Its statistics (VK_KHR_pipeline_executable_properties) are put between @BEGIN and @END with the
 * pipeline's handle, and with GPU_CODE=1 the machine code, between @CODE and @EDOC; @NAME says which kernel the handle is
 * (WGPU_DEBUG=1 has wgpu name them).
 *
 * GPU_FOLDER says where its memory lies, GPU_PCI, in hexadecimal, which device it is. The including file, after _GNU_SOURCE, says
 * the rest: DRIVER, the kernel's driver; VENDOR, whose it is on the PCI bus (0: it is not on one); and `command`, which answers the
 * driver's own calls. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loader.h"

/* The driver's own call, by its number after DRM_COMMAND_BASE: 0, or what `fails` returns. */
static int command(unsigned number, void *args);

static int fails(void) { errno = EINVAL; return -1; }
static uint32_t setting(const char *name) {
    const char *value = getenv(name);
    return value ? strtoul(value, NULL, 16) : 0;
}

/* What libdrm says of a device, as far as drivers ask. */
typedef struct { uint16_t domain; uint8_t bus, device, function; } Place;
typedef struct { uint16_t vendor, device, subvendor, subdevice; uint8_t revision; } Identity;
typedef struct { char **nodes; int available, bus; Place *place; Identity *identity; } Device;

static char path[4096];
static char *nodes[3] = {path, path, path};
static Place place = {0, 1, 0, 0};
static Identity identity = {VENDOR, 0, VENDOR, 0, 0xa1};
static Device device = {nodes, 1 << 2, VENDOR ? 0 : 2, &place, &identity};

int drmGetDevices2(uint32_t flags, Device **list, int most) {
    if (!path[0]) {
        const char *folder = getenv("GPU_FOLDER");
        /* Short, since ANV keeps 19 letters of it, and for each process another, since rosette starts itself. */
        snprintf(path, sizeof path, "%s/%c", folder ? folder : "/tmp", 'a' + getpid() % 26);
        int file = open(path, O_CREAT | O_RDWR, 0600);
        if (file < 0 || ftruncate(file, 1ll << 40)) perror(path);
        close(file);
        identity.device = setting("GPU_PCI");
    }
    if (list && most > 0) list[0] = &device;
    return 1;
}
int drmGetDeviceFromDevId(uint64_t id, uint32_t flags, Device **found) { *found = &device; return 0; }
int drmGetDevice(int file, Device **found) { *found = &device; return 0; }
int drmGetDevice2(int file, uint32_t flags, Device **found) { *found = &device; return 0; }
void drmFreeDevices(Device **list, int count) {}
void drmFreeDevice(Device **one) {}

/* Calls that every driver has, by their numbers in drm.h. A timeline stands where the last submission put it. */
enum { VERSION = 0x00, CLOSE = 0x09, CAPABILITY = 0x0c, CREATE = 0xbf, DESTROY = 0xc0, WAIT = 0xc3, RESET = 0xc4, SIGNAL = 0xc5,
       TIMELINE_WAIT = 0xca, QUERY = 0xcb, TRANSFER = 0xcc, TIMELINE_SIGNAL = 0xcd };
static uint64_t reached[1 << 20];
static uint32_t handles;
static uint64_t next_byte = 1 << 20;

static int version(void *args) {
    struct { int major, minor, patch; size_t name_len; char *name; size_t date_len; char *date; size_t about_len; } *v = args;
    v->major = 1; v->minor = 4; v->patch = 0;
    if (v->name && v->name_len >= strlen(DRIVER)) memcpy(v->name, DRIVER, strlen(DRIVER));
    v->name_len = strlen(DRIVER); v->date_len = v->about_len = 0;
    return 0;
}
static uint32_t new_handle(void) { return __sync_add_and_fetch(&handles, 1); }
/* Where in the file a block of memory lies. */
static uint64_t new_memory(uint64_t bytes) { return __sync_fetch_and_add(&next_byte, (bytes + 0xffff) & ~0xffffull); }
static void signal_done(uint32_t handle, uint64_t point) { reached[handle] = point ? point : 1; }
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
        args[0] = new_handle();
        if (args[0] >= sizeof reached / sizeof *reached) return fails();
        reached[args[0]] = args[1] & 1;
        return 0;
    case TIMELINE_SIGNAL: return timeline(args, 1);
    case QUERY: return timeline(args, 0);
    case WAIT: args[6] = 0; return 0; /* the first of them has been signalled */
    case TIMELINE_WAIT: args[8] = 0; return 0;
    case CLOSE: case DESTROY: case RESET: case SIGNAL: case TRANSFER: return 0;
    }
    unsigned number = request & 0xff;
    return 0x40 <= number && number < 0xa0 ? command(number - 0x40, args) : fails();
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
