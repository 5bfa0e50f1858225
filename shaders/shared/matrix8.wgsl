// Matrices of 8 x 8 on a device's matrix units: f16 times f16, added up in f32. To be imported first, by a shader that
// declares how many cells its two tiles in workgroup memory have (a cell is four halves), and `scratch` of f32. Rows start
// `stride` cells apart. All lanes of a subgroup do these together.
// Metal loads from single numbers, so that a cell is four of them.
enable f16;
enable wgpu_cooperative_matrix;

const SIDE: u32 = 8u;
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias MatrixC = coop_mat8x8<f32, C>;

var<workgroup> a_cells: array<f16, 4u * A_CELLS>;
var<workgroup> b_cells: array<f16, 4u * B_CELLS>;

// To be called before all else.
fn start(lane: u32) {}

fn put_a(at: u32, low: vec4<f16>, high: vec4<f16>) {
    for (var k = 0u; k < 4u; k++) {
        a_cells[at * 4u + k] = low[k];
        a_cells[at * 4u + 4u + k] = high[k];
    }
}

fn put_b(at: u32, low: vec4<f16>, high: vec4<f16>) {
    for (var k = 0u; k < 4u; k++) {
        b_cells[at * 4u + k] = low[k];
        b_cells[at * 4u + 4u + k] = high[k];
    }
}

fn load_a(at: u32, stride: u32) -> MatrixA {
    return coopLoadT<MatrixA>(&a_cells[at * 4u], stride * 4u);
}

// The same from memory that holds it column by column.
fn load_a_columns(at: u32, stride: u32) -> MatrixA {
    return coopLoad<MatrixA>(&a_cells[at * 4u], stride * 4u);
}

fn load_b(at: u32, stride: u32) -> MatrixB {
    return coopLoadT<MatrixB>(&b_cells[at * 4u], stride * 4u);
}

// The same from memory that holds it column by column.
fn load_b_columns(at: u32, stride: u32) -> MatrixB {
    return coopLoad<MatrixB>(&b_cells[at * 4u], stride * 4u);
}

fn multiply_add(a: MatrixA, b: MatrixB, c: MatrixC) -> MatrixC {
    return coopMultiplyAdd(a, b, c);
}

// To scratch, whose rows start `stride` numbers apart.
fn store_c(c: MatrixC, at: u32, stride: u32) {
    coopStoreT(c, &scratch[at], stride);
}
