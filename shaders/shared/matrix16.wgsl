// Matrices of 16 x 16 on a device's matrix units: f16 times f16, added up in f32. To be imported first, by a shader that
// declares how many cells its two tiles in workgroup memory have (a cell is four halves), and `scratch` of f32. Rows start
// `stride` cells apart. All lanes of a subgroup do these together.
enable f16;
enable wgpu_cooperative_matrix;

const SIDE: u32 = 16u;
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;

var<workgroup> a_cells: array<vec4<f16>, A_CELLS>;
var<workgroup> b_cells: array<vec4<f16>, B_CELLS>;

// To be called before all else.
fn start(lane: u32) {}

fn put_a(at: u32, low: vec4<f16>, high: vec4<f16>) {
    a_cells[at] = low;
    a_cells[at + 1u] = high;
}

fn put_b(at: u32, low: vec4<f16>, high: vec4<f16>) {
    b_cells[at] = low;
    b_cells[at + 1u] = high;
}

fn load_a(at: u32, stride: u32) -> MatrixA {
    return coopLoadT<MatrixA>(&a_cells[at], stride);
}

// The same from memory that holds it column by column.
fn load_a_columns(at: u32, stride: u32) -> MatrixA {
    return coopLoad<MatrixA>(&a_cells[at], stride);
}

fn load_b(at: u32, stride: u32) -> MatrixB {
    return coopLoadT<MatrixB>(&b_cells[at], stride);
}

// The same from memory that holds it column by column.
fn load_b_columns(at: u32, stride: u32) -> MatrixB {
    return coopLoad<MatrixB>(&b_cells[at], stride);
}

fn multiply_add(a: MatrixA, b: MatrixB, c: MatrixC) -> MatrixC {
    return coopMultiplyAdd(a, b, c);
}

// To scratch, whose rows start `stride` numbers apart.
fn store_c(c: MatrixC, at: u32, stride: u32) {
    coopStoreT(c, &scratch[at], stride);
}
