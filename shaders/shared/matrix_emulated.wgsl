// What matrix16 does, without matrix units: each of eight lanes computes two rows of every product, and keeps them; more lanes
// than eight compute the same again. Slow; it lets any device with f16 and subgroups of eight lanes or more check the shaders that
// use matrix units.
enable f16;

const SIDE: u32 = 16u;

// Where the matrix begins in a tile, and how far apart its rows are, or its columns.
struct MatrixA {
    at: u32,
    stride: u32,
    by_columns: bool,
}
struct MatrixB {
    at: u32,
    stride: u32,
    by_columns: bool,
}
// Two rows of four cells.
struct MatrixC {
    rows: array<vec4<f32>, 8>,
}

var<workgroup> a_cells: array<vec4<f16>, A_CELLS>;
var<workgroup> b_cells: array<vec4<f16>, B_CELLS>;
var<private> first_row: u32;
var<private> keeps: bool;

fn start(lane: u32) {
    first_row = lane % 8u * 2u;
    keeps = lane < 8u;
}

fn put_a(at: u32, low: vec4<f16>, high: vec4<f16>) {
    a_cells[at] = low;
    a_cells[at + 1u] = high;
}

fn put_b(at: u32, low: vec4<f16>, high: vec4<f16>) {
    b_cells[at] = low;
    b_cells[at + 1u] = high;
}

fn load_a(at: u32, stride: u32) -> MatrixA {
    return MatrixA(at, stride, false);
}

fn load_a_columns(at: u32, stride: u32) -> MatrixA {
    return MatrixA(at, stride, true);
}

fn load_b(at: u32, stride: u32) -> MatrixB {
    return MatrixB(at, stride, false);
}

fn load_b_columns(at: u32, stride: u32) -> MatrixB {
    return MatrixB(at, stride, true);
}

fn element_of_a(a: MatrixA, row: u32, column: u32) -> f32 {
    let along = select(column, row, a.by_columns);
    let across = select(row, column, a.by_columns);
    return f32(a_cells[a.at + across * a.stride + along / 4u][along % 4u]);
}

// Four columns of a row.
fn row_of_b(b: MatrixB, row: u32, quad: u32) -> vec4<f32> {
    if (!b.by_columns) {
        return vec4<f32>(b_cells[b.at + row * b.stride + quad]);
    }
    var cells: vec4<f32>;
    for (var k = 0u; k < 4u; k++) {
        cells[k] = f32(b_cells[b.at + (quad * 4u + k) * b.stride + row / 4u][row % 4u]);
    }
    return cells;
}

fn multiply_add(a: MatrixA, b: MatrixB, c: MatrixC) -> MatrixC {
    var sum = c;
    for (var k = 0u; k < SIDE; k++) {
        let upper = element_of_a(a, first_row, k);
        let lower = element_of_a(a, first_row + 1u, k);
        for (var q = 0u; q < 4u; q++) {
            let right = row_of_b(b, k, q);
            sum.rows[q] = fma(vec4<f32>(upper), right, sum.rows[q]);
            sum.rows[q + 4u] = fma(vec4<f32>(lower), right, sum.rows[q + 4u]);
        }
    }
    return sum;
}

fn store_c(c: MatrixC, at: u32, stride: u32) {
    if (!keeps) {
        return;
    }
    for (var q = 0u; q < 4u; q++) {
        for (var k = 0u; k < 4u; k++) {
            scratch[at + first_row * stride + q * 4u + k] = c.rows[q][k];
            scratch[at + (first_row + 1u) * stride + q * 4u + k] = c.rows[q + 4u][k];
        }
    }
}
