use rosette::gpu::*;
const S: ShaderSource =
    ShaderSource { name: "conv2d_direct", text: include_str!("../shaders/conv2d_direct.wgsl") };
fn cpu() -> f64 {
    let t = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    let _ = t;
    let mut s = 0.0;
    for d in std::fs::read_dir("/proc/self/task").unwrap() {
        if let Ok(t) = std::fs::read_to_string(d.unwrap().path().join("schedstat")) {
            s += t.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1e-6;
        }
    }
    s
}
fn main() {
    let gpu = Gpu::open(None).unwrap();
    let args: Vec<u32> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let (n, hw, ci, co, k, rows, cols) = (args[0], args[1], args[2], args[3], args[4], args[5], args[6]);
    let groups = ci / 4;
    let blocks_per = (65536 / (groups * k * k * 128)).min(co / 8);
    let slice = blocks_per * groups * k * k * 8;
    let kernel = Kernel::new(
        S,
        "forward",
        Variant::new()
            .with("K", format!("{k}u"))
            .with("ROWS", format!("{rows}u"))
            .with("COLS", format!("{cols}u"))
            .with("SLICE", format!("{slice}u")),
    );
    let x = gpu.buffer("x", (n * hw * hw * ci * 4) as u64).unwrap();
    let w = gpu.buffer("w", (co * ci * k * k * 4) as u64 + 65536).unwrap();
    let b = gpu.buffer("b", (co * 4) as u64).unwrap();
    let y = gpu.buffer("y", (n * hw * hw * co * 4) as u64).unwrap();
    let (tr, tc) = (hw.div_ceil(rows), hw.div_ceil(cols));
    let gpb = (n * tr * tc).div_ceil(64);
    let mut cmds = vec![];
    let mut bf = 0;
    while bf < co / 8 {
        let blocks = blocks_per.min(co / 8 - bf);
        let p = [n, hw, hw, groups, 0, groups, co, bf, tr, tc, gpb, 0, blocks];
        cmds.push(Command {
            kernel: kernel.clone(),
            bindings: vec![
                Binding { buffer: 0, offset_bytes: 0, size_bytes: x.size_bytes() },
                Binding {
                    buffer: 1,
                    offset_bytes: (bf * groups * k * k * 128) as u64,
                    size_bytes: slice as u64 * 16,
                },
                Binding { buffer: 2, offset_bytes: 0, size_bytes: b.size_bytes() },
                Binding { buffer: 3, offset_bytes: 0, size_bytes: y.size_bytes() },
            ],
            params: bytemuck::cast_slice(&p).to_vec(),
            groups: gpb * blocks,
        });
        bf += blocks;
    }
    let exe = gpu.load(&cmds, &[x, w, b, y]).unwrap();
    let mut best = f64::MAX;
    gpu.run(&exe);
    gpu.wait().unwrap();
    for _ in 0..6 {
        let c = cpu();
        gpu.run(&exe);
        gpu.wait().unwrap();
        best = best.min((cpu() - c) / 2.0);
    }
    let fl = 2.0 * (n * hw * hw * co * ci * k * k) as f64;
    println!("{args:?} {:.2} ms {:.1} GFLOP/s ({} dispatches)", best, fl / best / 1e6, cmds.len());
}
