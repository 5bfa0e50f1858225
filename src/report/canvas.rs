//! An RGB picture with text: kuva rasterises the text with its embedded font, pixels are set here.

use std::path::Path;

use kuva::PngBackend;
use kuva::render::render::{Primitive, Scene, TextAnchor};

use crate::error::{Error, Result};
use crate::files;

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// A line of black text.
pub struct Text {
    /// Its left end or its middle, by `centred`.
    pub x_px: usize,
    /// Its baseline.
    pub y_px: usize,
    /// Whether `x_px` is its middle.
    pub centred: bool,
    /// The size of the font.
    pub size_px: u32,
    /// Whether it is bold.
    pub bold: bool,
    /// The text.
    pub content: String,
}

/// Row-major pixels.
pub struct Canvas {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height * width]`
    pub pixels: Vec<Rgb>,
}

impl Canvas {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: Rgb) -> Self {
        Self { width, height, pixels: vec![colour; width * height] }
    }

    /// White paper with text on it.
    pub fn with_text(width: usize, height: usize, texts: Vec<Text>) -> Result<Self> {
        let mut scene = Scene::new(width as f64, height as f64);
        scene.elements = texts.into_iter().map(primitive).collect();
        let png = PngBackend::new().with_scale(1.0).render_scene(&scene).map_err(Error::failure)?;
        let mut canvas = Self::filled(width, height, [255; 3]);
        let text = decode(&png).map_err(Error::failure)?;
        canvas.paste(&text, 0, 0);
        Ok(canvas)
    }

    /// Copies another picture to a place; what lies beyond the edge is cut off.
    pub fn paste(&mut self, other: &Self, x: usize, y: usize) {
        let columns = other.width.min(self.width.saturating_sub(x));
        for row in 0..other.height.min(self.height.saturating_sub(y)) {
            let to = (y + row) * self.width + x;
            let from = row * other.width;
            self.pixels[to..to + columns].copy_from_slice(&other.pixels[from..from + columns]);
        }
    }

    /// The picture at another size: each new pixel is the mean of the old ones that it covers, or the nearest.
    pub fn resized(&self, width: usize, height: usize) -> Self {
        let mut out = Self::filled(width, height, [0; 3]);
        for y in 0..height {
            let rows = covered(y, height, self.height);
            for x in 0..width {
                let columns = covered(x, width, self.width);
                out.pixels[y * width + x] = self.mean(rows.clone(), columns);
            }
        }
        out
    }

    fn mean(&self, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Rgb {
        let count = (rows.len() * columns.len()) as u32;
        let mut sum = [0u32; 3];
        for row in rows {
            for pixel in &self.pixels[row * self.width..][columns.clone()] {
                (0..3).for_each(|c| sum[c] += u32::from(pixel[c]));
            }
        }
        sum.map(|s| (s / count) as u8)
    }

    /// The picture as PNG.
    ///
    /// # Errors
    /// A failure where it cannot be encoded.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let fail = |e: png::EncodingError| Error::failure(format!("a picture: {e}"));
        let mut writer = encoder.write_header().map_err(fail)?;
        writer.write_image_data(self.pixels.as_flattened()).map_err(fail)?;
        writer.finish().map_err(fail)?;
        Ok(bytes)
    }

    /// Writes the picture as PNG.
    ///
    /// # Errors
    /// A user error where the file cannot be written.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        files::write_atomic(path, &self.png()?)
    }
}

/// The old pixels under new pixel `i` of `n`, at least one of the `m` there are.
fn covered(i: usize, n: usize, m: usize) -> std::ops::Range<usize> {
    let start = i * m / n;
    start..((i + 1) * m / n).max(start + 1)
}

fn primitive(text: Text) -> Primitive {
    Primitive::Text {
        x: text.x_px as f64,
        y: text.y_px as f64,
        content: text.content,
        size: text.size_px,
        anchor: if text.centred { TextAnchor::Middle } else { TextAnchor::Start },
        rotate: None,
        bold: text.bold,
        color: None,
    }
}

/// The RGB or RGBA picture that kuva encoded.
fn decode(png: &[u8]) -> std::result::Result<Canvas, String> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().map_err(|e| e.to_string())?;
    let mut bytes = vec![0; reader.output_buffer_size().ok_or("a picture beyond all bounds")?];
    let info = reader.next_frame(&mut bytes).map_err(|e| e.to_string())?;
    let samples = info.color_type.samples();
    if samples < 3 {
        return Err(format!("text was rasterised as {:?}", info.color_type));
    }
    let pixels = bytes.chunks_exact(samples).map(|p| [p[0], p[1], p[2]]).collect();
    Ok(Canvas { width: info.width as usize, height: info.height as usize, pixels })
}

/// `under` covered by `over` with an opacity from 0 to 1.
pub fn blend(under: Rgb, over: Rgb, opacity: f32) -> Rgb {
    std::array::from_fn(|c| {
        let (u, o) = (f32::from(under[c]), f32::from(over[c]));
        (u + (o - u) * opacity.clamp(0.0, 1.0)).round() as u8
    })
}
