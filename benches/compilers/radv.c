/* Lets a program open RADV's null device (RADV_FORCE_FAMILY), which compiles for a GPU that is not there but has neither
 * memory nor semaphores. Preloaded, this gives it both and drops whatever would run: what is left is the compiler. Every
 * pipeline's statistics, which RADV_DEBUG=shaderstats prints, are put between @BEGIN and @END with the pipeline's handle;
 * @NAME says which kernel the handle is (WGPU_DEBUG=1 has wgpu name them).
 *
 *   cc -shared -fPIC -o radv.so radv.c -ldl */
#define _GNU_SOURCE
#include <stdlib.h>

#include "loader.h"

#define API(name) VKAPI_ATTR VkResult VKAPI_CALL name
#define API_VOID(name) VKAPI_ATTR void VKAPI_CALL name

static PFN_vkCreateComputePipelines next_pipelines;
static PFN_vkGetBufferMemoryRequirements next_requirements;
static PFN_vkGetBufferMemoryRequirements2 next_requirements2;
static uint64_t reached;

static API(succeeds)(void) { return VK_SUCCESS; }
static API_VOID(nothing)(void) {}

/* Memory: type 0 is never touched by the host, 1 and 2 are the host's. */
static void memory_types(VkPhysicalDeviceMemoryProperties *all) {
    const VkMemoryPropertyFlags flags[] = {1, 6, 14};
    memset(all, 0, sizeof *all);
    all->memoryHeapCount = 2;
    all->memoryHeaps[0] = (VkMemoryHeap){24ull << 30, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT};
    all->memoryHeaps[1] = (VkMemoryHeap){64ull << 30, 0};
    all->memoryTypeCount = 3;
    for (int i = 0; i < 3; i++) all->memoryTypes[i] = (VkMemoryType){flags[i], i > 0};
}
static API_VOID(memory)(VkPhysicalDevice gpu, VkPhysicalDeviceMemoryProperties *all) { memory_types(all); }
static API_VOID(memory2)(VkPhysicalDevice gpu, VkPhysicalDeviceMemoryProperties2 *all) {
    memory_types(&all->memoryProperties);
}
static API(allocate)(VkDevice device, const VkMemoryAllocateInfo *info, Allocator a, VkDeviceMemory *memory) {
    void *block = calloc(1, info->memoryTypeIndex ? info->allocationSize : 64);
    *memory = (VkDeviceMemory)block;
    return block ? VK_SUCCESS : VK_ERROR_OUT_OF_DEVICE_MEMORY;
}
static API_VOID(release)(VkDevice device, VkDeviceMemory memory, Allocator a) { free((void *)memory); }
static API(map)(VkDevice device, VkDeviceMemory memory, VkDeviceSize at, VkDeviceSize size, VkMemoryMapFlags flags,
                void **data) {
    *data = (char *)memory + at;
    return VK_SUCCESS;
}
static API_VOID(requirements)(VkDevice device, VkBuffer buffer, VkMemoryRequirements *needs) {
    next_requirements(device, buffer, needs);
    needs->memoryTypeBits = 7;
}
static API_VOID(requirements2)(VkDevice device, const VkBufferMemoryRequirementsInfo2 *of, VkMemoryRequirements2 *needs) {
    next_requirements2(device, of, needs);
    needs->memoryRequirements.memoryTypeBits = 7;
}

/* Submissions are done at once: a timeline stands where the last of them put it. */
static API(semaphore)(VkDevice device, const VkSemaphoreCreateInfo *info, Allocator a, VkSemaphore *made) {
    static uintptr_t handle = 0x1000;
    *made = (VkSemaphore)++handle;
    return VK_SUCCESS;
}
static API(submit)(VkQueue queue, uint32_t count, const VkSubmitInfo *submits, VkFence fence) {
    for (uint32_t i = 0; i < count; i++)
        for (const VkBaseInStructure *p = submits[i].pNext; p; p = p->pNext)
            if (p->sType == VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO) {
                const VkTimelineSemaphoreSubmitInfo *timeline = (const void *)p;
                for (uint32_t k = 0; k < timeline->signalSemaphoreValueCount; k++)
                    if (timeline->pSignalSemaphoreValues[k] > reached) reached = timeline->pSignalSemaphoreValues[k];
            }
    return VK_SUCCESS;
}
static API(counter)(VkDevice device, VkSemaphore semaphore, uint64_t *value) {
    *value = reached;
    return VK_SUCCESS;
}
static API(commands)(VkDevice device, const VkCommandBufferAllocateInfo *info, VkCommandBuffer *buffers) {
    for (uint32_t i = 0; i < info->commandBufferCount; i++) buffers[i] = calloc(1, 64);
    return VK_SUCCESS;
}
static API(queries)(VkDevice device, VkQueryPool pool, uint32_t first, uint32_t count, size_t size, void *data,
                    VkDeviceSize stride, VkQueryResultFlags flags) {
    memset(data, 0, size);
    return VK_SUCCESS;
}

static API(pipelines)(VkDevice device, VkPipelineCache cache, uint32_t count, const VkComputePipelineCreateInfo *infos,
                      Allocator a, VkPipeline *made) {
    pthread_mutex_lock(&one_at_a_time);
    fprintf(stderr, "@BEGIN\n");
    VkResult result = next_pipelines(device, VK_NULL_HANDLE, count, infos, a, made);
    fprintf(stderr, "@END %p\n", (void *)made[0]);
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}

#define INSTEAD(vk, ours) if (!strcmp(wanted, #vk) || !strcmp(wanted, #vk "KHR")) return (PFN_vkVoidFunction)ours;
#define AROUND(vk, ours, next) if (!strcmp(wanted, #vk) || !strcmp(wanted, #vk "KHR")) { next = (PFN_##vk)found; return (PFN_vkVoidFunction)ours; }

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL of_device(VkDevice device, const char *wanted) {
    PFN_vkVoidFunction found = next_device(device, wanted);
    if (!found) return found;
    if (!strncmp(wanted, "vkCmd", 5)) return (PFN_vkVoidFunction)nothing;
    AROUND(vkCreateComputePipelines, pipelines, next_pipelines)
    AROUND(vkGetBufferMemoryRequirements, requirements, next_requirements)
    AROUND(vkGetBufferMemoryRequirements2, requirements2, next_requirements2)
    INSTEAD(vkCreateSemaphore, semaphore) INSTEAD(vkDestroySemaphore, nothing) INSTEAD(vkWaitSemaphores, succeeds)
    INSTEAD(vkGetSemaphoreCounterValue, counter) INSTEAD(vkQueueSubmit, submit) INSTEAD(vkQueueWaitIdle, succeeds)
    INSTEAD(vkDeviceWaitIdle, succeeds) INSTEAD(vkAllocateMemory, allocate) INSTEAD(vkFreeMemory, release)
    INSTEAD(vkMapMemory, map) INSTEAD(vkUnmapMemory, nothing) INSTEAD(vkBindBufferMemory, succeeds)
    INSTEAD(vkBindBufferMemory2, succeeds) INSTEAD(vkFlushMappedMemoryRanges, succeeds)
    INSTEAD(vkInvalidateMappedMemoryRanges, succeeds) INSTEAD(vkUpdateDescriptorSets, nothing)
    INSTEAD(vkAllocateCommandBuffers, commands) INSTEAD(vkFreeCommandBuffers, nothing)
    INSTEAD(vkBeginCommandBuffer, succeeds) INSTEAD(vkEndCommandBuffer, succeeds)
    INSTEAD(vkResetCommandBuffer, succeeds) INSTEAD(vkResetCommandPool, succeeds)
    INSTEAD(vkGetQueryPoolResults, queries) INSTEAD(vkSetDebugUtilsObjectNameEXT, name)
    return found;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL of_instance(VkInstance instance, const char *wanted) {
    PFN_vkVoidFunction found = next_instance(instance, wanted);
    if (!found) return found;
    AROUND(vkGetDeviceProcAddr, of_device, next_device)
    INSTEAD(vkGetPhysicalDeviceMemoryProperties, memory) INSTEAD(vkGetPhysicalDeviceMemoryProperties2, memory2)
    return found;
}
