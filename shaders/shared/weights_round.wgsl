// Weights for all lanes of a subgroup (8 at least): each has loaded some, since a load costs a software adapter as much as two dozen
// multiply-adds. Of a block of 4 inputs x 8 outputs, a vec4 a lane, in memory order, [4][8]: two vec4 an input. Of 8 inputs x 8
// outputs, an input a lane, it is one half of the outputs.
fn passed_round(mine: vec4<f32>) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
        subgroupBroadcast(mine, 0u), subgroupBroadcast(mine, 1u), subgroupBroadcast(mine, 2u), subgroupBroadcast(mine, 3u),
        subgroupBroadcast(mine, 4u), subgroupBroadcast(mine, 5u), subgroupBroadcast(mine, 6u), subgroupBroadcast(mine, 7u),
    );
}

// sum + four inputs times their weights, for one half of the outputs: inputs are added in order.
fn add_product(sum: vec4<f32>, d: vec4<f32>, w: array<vec4<f32>, 8>, half: u32) -> vec4<f32> {
    let first = fma(vec4<f32>(d.y), w[2u + half], fma(vec4<f32>(d.x), w[half], sum));
    return fma(vec4<f32>(d.w), w[6u + half], fma(vec4<f32>(d.z), w[4u + half], first));
}
