/* What the GPUs that are not there have in common: wgpu opens Vulkan's loader through them, and every pipeline gets its kernel's name.
 * To be included after _GNU_SOURCE; the including file defines of_instance, which answers for an instance. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <vulkan/vulkan.h>

typedef const VkAllocationCallbacks *Allocator;

static PFN_vkGetInstanceProcAddr next_instance;
static PFN_vkGetDeviceProcAddr next_device;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL of_instance(VkInstance instance, const char *wanted);

static VKAPI_ATTR VkResult VKAPI_CALL name(VkDevice device, const VkDebugUtilsObjectNameInfoEXT *info) {
    pthread_mutex_lock(&one_at_a_time);
    if (info->objectType == VK_OBJECT_TYPE_PIPELINE)
        fprintf(stderr, "@NAME %p %s\n", (void *)(uintptr_t)info->objectHandle, info->pObjectName);
    pthread_mutex_unlock(&one_at_a_time);
    return VK_SUCCESS;
}

/* wgpu opens the loader and asks for this one symbol. */
void *dlsym(void *library, const char *wanted) {
    static void *(*next)(void *, const char *);
    if (!next) next = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
    void *found = next(library, wanted);
    if (!found || strcmp(wanted, "vkGetInstanceProcAddr")) return found;
    next_instance = (PFN_vkGetInstanceProcAddr)found;
    return of_instance;
}
