// The products of an invocation's channels (lane4, lane8) with weights that went round.
// sum + inputs times their weights for four outputs: inputs are added in order.
fn add_inputs(sum: vec4<f32>, d: V, w: array<vec4<f32>, 8>) -> vec4<f32> {
    var total = sum;
    for (var i = 0u; i < V_FLOATS; i++) {
        total = fma(vec4<f32>(channel(d, i)), w[i], total);
    }
    return total;
}
