/* An Intel GPU that is not there, for ANV (Mesa's driver), as the kernel's driver `xe` would show it: see absent.h.
 *
 *   cc -shared -fPIC -o xe.so xe.c -ldl
 *
 * Needs the kernel's headers (linux-libc-dev, 6.11 or later). GPU_PCI, in hexadecimal, says which GPU, GPU_CHIPSET its graphics
 * version, e.g. 1401 for 20.01 (see statistics.py). */
#define _GNU_SOURCE
#define DRIVER "xe"
#define VENDOR 0x8086
#include "absent.h"

#include <drm/xe_drm.h>

/* System memory and the GPU's own; its engines; one tile. Slices and units as on an Arc of the upper class: how many there are
 * decides nothing about a kernel's code. */
static int regions(struct drm_xe_query_mem_regions *all) {
    all->num_mem_regions = 2;
    for (int i = 0; i < 2; i++) {
        struct drm_xe_mem_region *region = &all->mem_regions[i];
        region->mem_class = i ? DRM_XE_MEM_REGION_CLASS_VRAM : DRM_XE_MEM_REGION_CLASS_SYSMEM;
        region->instance = i;
        region->min_page_size = i ? 1 << 16 : 1 << 12;
        region->total_size = 16ull << 30;
        region->cpu_visible_size = i ? 16ull << 30 : 0;
    }
    return 0;
}
static int engines(struct drm_xe_query_engines *all) {
    const int classes[] = {DRM_XE_ENGINE_CLASS_RENDER, DRM_XE_ENGINE_CLASS_COPY, DRM_XE_ENGINE_CLASS_COMPUTE};
    all->num_engines = 3;
    for (int i = 0; i < 3; i++) all->engines[i].instance.engine_class = classes[i];
    return 0;
}
static int config(struct drm_xe_query_config *of) {
    of->num_params = 5;
    of->info[DRM_XE_QUERY_CONFIG_REV_AND_DEVICE_ID] = 8ull << 16 | identity.device;
    of->info[DRM_XE_QUERY_CONFIG_FLAGS] = DRM_XE_QUERY_CONFIG_FLAG_HAS_VRAM;
    of->info[DRM_XE_QUERY_CONFIG_MIN_ALIGNMENT] = 1 << 16;
    of->info[DRM_XE_QUERY_CONFIG_VA_BITS] = 48;
    return 0;
}
static int tiles(struct drm_xe_query_gt_list *all) {
    uint32_t graphics = setting("GPU_CHIPSET");
    all->num_gt = 1;
    all->gt_list[0] = (struct drm_xe_gt){.type = DRM_XE_QUERY_GT_TYPE_MAIN, .reference_clock = 19200000, .near_mem_regions = 2,
                                         .far_mem_regions = 1, .ip_ver_major = graphics >> 8, .ip_ver_minor = graphics & 0xff};
    return 0;
}
static int topology(uint8_t *at) {
    const int types[] = {DRM_XE_TOPO_DSS_GEOMETRY, DRM_XE_TOPO_DSS_COMPUTE, DRM_XE_TOPO_L3_BANK,
                         setting("GPU_CHIPSET") >> 8 >= 20 ? DRM_XE_TOPO_SIMD16_EU_PER_DSS : DRM_XE_TOPO_EU_PER_DSS};
    for (int i = 0; i < 4; i++) {
        struct drm_xe_query_topology_mask *mask = (void *)at;
        mask->type = types[i];
        mask->num_bytes = 8;
        memset(mask->mask, i < 3 ? 0xff : 0, 8);
        if (i < 3) mask->mask[4] = mask->mask[5] = mask->mask[6] = mask->mask[7] = 0;
        else memset(mask->mask, 0xff, types[3] == DRM_XE_TOPO_SIMD16_EU_PER_DSS ? 1 : 2);
        at += sizeof *mask + 8;
    }
    return 0;
}
static int query(struct drm_xe_device_query *asked) {
    static const uint32_t sizes[] = {
        [DRM_XE_DEVICE_QUERY_ENGINES] = sizeof(struct drm_xe_query_engines) + 3 * sizeof(struct drm_xe_engine),
        [DRM_XE_DEVICE_QUERY_MEM_REGIONS] = sizeof(struct drm_xe_query_mem_regions) + 2 * sizeof(struct drm_xe_mem_region),
        [DRM_XE_DEVICE_QUERY_CONFIG] = sizeof(struct drm_xe_query_config) + 5 * sizeof(uint64_t),
        [DRM_XE_DEVICE_QUERY_GT_LIST] = sizeof(struct drm_xe_query_gt_list) + sizeof(struct drm_xe_gt),
        [DRM_XE_DEVICE_QUERY_HWCONFIG] = 3 * sizeof(uint32_t),
        [DRM_XE_DEVICE_QUERY_GT_TOPOLOGY] = 4 * (sizeof(struct drm_xe_query_topology_mask) + 8),
        [DRM_XE_DEVICE_QUERY_ENGINE_CYCLES] = sizeof(struct drm_xe_query_engine_cycles),
    };
    if (asked->query >= sizeof sizes / sizeof *sizes || !sizes[asked->query]) return fails();
    asked->size = sizes[asked->query];
    if (!asked->data) return 0;
    void *data = (void *)(uintptr_t)asked->data;
    switch (asked->query) {
    case DRM_XE_DEVICE_QUERY_ENGINES: return engines(data);
    case DRM_XE_DEVICE_QUERY_MEM_REGIONS: return regions(data);
    case DRM_XE_DEVICE_QUERY_CONFIG: return config(data);
    case DRM_XE_DEVICE_QUERY_GT_LIST: return tiles(data);
    case DRM_XE_DEVICE_QUERY_HWCONFIG: memcpy(data, (uint32_t[]){1, 1, 8}, 12); return 0; /* at most 8 slices */
    case DRM_XE_DEVICE_QUERY_GT_TOPOLOGY: return topology(data);
    default: return 0;
    }
}

static int done(uint64_t list, uint32_t count) {
    const struct drm_xe_sync *all = (void *)(uintptr_t)list;
    for (uint32_t i = 0; i < count; i++)
        if (all[i].flags & DRM_XE_SYNC_FLAG_SIGNAL) {
            if (all[i].type == DRM_XE_SYNC_TYPE_USER_FENCE) *(uint64_t *)(uintptr_t)all[i].addr = all[i].timeline_value;
            else signal_done(all[i].handle, all[i].timeline_value);
        }
    return 0;
}

/* Where blocks of memory lie in the file, by handle. */
static uint64_t where[1 << 20];

static int command(unsigned number, void *args) {
    switch (number) {
    case DRM_XE_DEVICE_QUERY: return query(args);
    case DRM_XE_GEM_CREATE: {
        struct drm_xe_gem_create *block = args;
        block->handle = new_handle();
        if (block->handle >= sizeof where / sizeof *where) return fails();
        where[block->handle] = new_memory(block->size);
        return 0;
    }
    case DRM_XE_GEM_MMAP_OFFSET: {
        struct drm_xe_gem_mmap_offset *map = args;
        if (map->flags) return fails();
        map->offset = where[map->handle];
        return 0;
    }
    case DRM_XE_VM_CREATE: ((struct drm_xe_vm_create *)args)->vm_id = 1; return 0;
    case DRM_XE_VM_BIND: return done(((struct drm_xe_vm_bind *)args)->syncs, ((struct drm_xe_vm_bind *)args)->num_syncs);
    case DRM_XE_EXEC_QUEUE_CREATE: ((struct drm_xe_exec_queue_create *)args)->exec_queue_id = new_handle(); return 0;
    case DRM_XE_EXEC: return done(((struct drm_xe_exec *)args)->syncs, ((struct drm_xe_exec *)args)->num_syncs);
    case DRM_XE_EXEC_QUEUE_GET_PROPERTY: ((struct drm_xe_exec_queue_get_property *)args)->value = 0; return 0;
    case DRM_XE_VM_DESTROY: case DRM_XE_EXEC_QUEUE_DESTROY: case DRM_XE_WAIT_USER_FENCE: case DRM_XE_EXEC_QUEUE_SET_PROPERTY:
        return 0;
    default: return fails();
    }
}
