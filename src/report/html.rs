//! Pages in a single file that open without a network: style, script, pictures and charts are all inside.
//!
//! A page is a title and sections; a section is [`Html`], made by the functions here and by [`crate::report::svg`].
//! Text of a user gets in through [`Html::text`] alone, which escapes it.

use std::fmt::Display;
use std::path::Path;

use crate::error::Result;
use crate::files;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Markup in which every text has been escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

impl Html {
    /// A text, escaped; also safe within quotes.
    pub fn text(text: impl Display) -> Self {
        let mut out = String::new();
        for c in text.to_string().chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                '\'' => out.push_str("&#39;"),
                // Control characters are no part of a page.
                c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
                c => out.push(c),
            }
        }
        Self(out)
    }

    /// Content in an element of `src/report`'s own choice.
    pub fn within(tag: &str, class: &str, content: &Self) -> Self {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        Self(format!("<{tag}{class}>{}</{tag}>\n", content.0))
    }

    /// Markup that this folder wrote; texts in it have been escaped.
    pub(super) fn markup(markup: String) -> Self {
        Self(markup)
    }

    /// The markup.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<T: IntoIterator<Item = Html>>(parts: T) -> Self {
        Self(parts.into_iter().map(|part| part.0).collect())
    }
}

/// A paragraph of plain text.
pub fn paragraph(text: impl Display) -> Html {
    Html::within("p", "", &Html::text(text))
}

/// A heading within a section.
pub fn heading(text: impl Display) -> Html {
    Html::within("h3", "", &Html::text(text))
}

/// Names, in as many columns as fit.
pub fn names<S: Display>(names: &[S]) -> Html {
    let items: Html = names.iter().map(|name| Html::within("li", "", &Html::text(name))).collect();
    Html::within("ul", "names", &items)
}

/// The few figures that matter, large: each with what it is.
pub fn tiles(figures: &[(&str, String)]) -> Html {
    let tile = |(what, value): &(&str, String)| {
        let (value, what) =
            (Html::within("b", "", &Html::text(value)), Html::within("span", "", &Html::text(what)));
        Html::within("div", "tile", &[value, what].into_iter().collect())
    };
    Html::within("div", "tiles", &figures.iter().map(tile).collect())
}

/// A PNG picture with what it shows, which also is what a reader hears who cannot see it.
pub fn figure(png: &[u8], caption: &str) -> Html {
    let caption = Html::text(caption);
    Html(format!(
        "<figure><img alt=\"{0}\" src=\"data:image/png;base64,{1}\"><figcaption>{0}</figcaption></figure>\n",
        caption.0,
        base64(png)
    ))
}

/// Content that is shown on demand, below a line that tells what it is.
pub fn details(summary: &str, content: &Html) -> Html {
    let summary = Html::within("summary", "", &Html::text(summary));
    Html::within("details", "", &[summary, content.clone()].into_iter().collect())
}

/// Charts side by side where there is room.
pub fn charts(charts: impl IntoIterator<Item = Html>) -> Html {
    Html::within("div", "charts", &charts.into_iter().collect())
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A name or a value as it stands in a file.
    Code(String),
    /// A number, as it is shown, and as it sorts.
    Number(String, f64),
    /// Words that lead to a file beside the page.
    Link(String, String),
    /// Nothing.
    Empty,
}

impl Cell {
    /// A number with so many decimals, or nothing.
    pub fn decimals(value: Option<f64>, decimals: usize) -> Self {
        value
            .filter(|value| value.is_finite())
            .map_or(Self::Empty, |value| Self::Number(format!("{value:.decimals$}"), value))
    }

    /// A mean, which it sorts by, with the deviation where there is one.
    pub fn mean(value: Option<f64>, deviation: Option<f64>) -> Self {
        match (Self::decimals(value, 4), deviation) {
            (Self::Number(text, value), Some(deviation)) => {
                Self::Number(format!("{text} ± {deviation:.4}"), value)
            }
            (cell, _) => cell,
        }
    }

    /// A count.
    pub fn count(value: usize) -> Self {
        Self::Number(value.to_string(), value as f64)
    }
}

/// Which value of a column is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Best {
    /// None.
    None,
    /// The highest.
    Highest,
    /// The lowest.
    Lowest,
}

/// A table that sorts by a click on a column's head; `columns` are the heads, with the value that is marked.
pub fn table(columns: &[(&str, Best)], rows: &[Vec<Cell>]) -> Html {
    let is_number = |column: usize| rows.iter().any(|row| matches!(row.get(column), Some(Cell::Number(..))));
    let class = |column: usize| if is_number(column) { " class=\"number\"" } else { "" };
    let mut out = String::from("<div class=\"scroll\"><table><thead><tr>");
    for (at, (title, _)) in columns.iter().enumerate() {
        out += &format!("<th{}><button type=\"button\">{}</button></th>", class(at), Html::text(title).0);
    }
    out += "</tr></thead><tbody>\n";
    let best: Vec<Option<f64>> =
        columns.iter().enumerate().map(|(at, (_, best))| best_of(rows, at, *best)).collect();
    for row in rows {
        let cells = row.iter().enumerate().map(|(at, cell)| cell.show(best.get(at).copied().flatten()));
        out += &format!("<tr>{}</tr>\n", cells.collect::<String>());
    }
    Html(out + "</tbody></table></div>\n")
}

/// The value to mark in a column; none where there is nothing to compare it with.
fn best_of(rows: &[Vec<Cell>], column: usize, best: Best) -> Option<f64> {
    let values = rows.iter().filter_map(|row| match row.get(column) {
        Some(Cell::Number(_, value)) => Some(*value),
        _ => None,
    });
    let found = match best {
        Best::None => None,
        Best::Highest => values.clone().reduce(f64::max),
        Best::Lowest => values.clone().reduce(f64::min),
    };
    found.filter(|_| values.count() > 1)
}

impl Cell {
    fn show(&self, best: Option<f64>) -> String {
        match self {
            Self::Text(text) => format!("<td>{}</td>", Html::text(text).0),
            Self::Code(text) => format!("<td><code>{}</code></td>", Html::text(text).0),
            Self::Number(shown, value) => {
                let class = if best == Some(*value) { "number best" } else { "number" };
                format!("<td class=\"{class}\" data-value=\"{value}\">{}</td>", Html::text(shown).0)
            }
            Self::Link(text, href) => {
                format!("<td><a href=\"{}\">{}</a></td>", Html::text(relative(href)).0, Html::text(text).0)
            }
            Self::Empty => "<td></td>".into(),
        }
    }
}

/// A path as the address of a file beside the page, whatever characters are in it: never another scheme.
fn relative(path: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let encoded =
        path.bytes().map(|b| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") });
    format!("./{}", encoded.collect::<String>().trim_start_matches('/'))
}

/// A page.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    subtitle: String,
    sections: Vec<(String, Html)>,
}

impl Page {
    /// A page without sections.
    pub fn new(title: impl Display, subtitle: impl Display) -> Self {
        Self { title: title.to_string(), subtitle: subtitle.to_string(), sections: Vec::new() }
    }

    /// Adds a section; one without content is left out.
    pub fn section(mut self, title: &str, content: Html) -> Self {
        if !content.0.is_empty() {
            self.sections.push((title.to_string(), content));
        }
        self
    }

    /// The whole file.
    pub fn render(&self) -> String {
        let (title, subtitle) = (Html::text(&self.title).0, Html::text(&self.subtitle).0);
        let (mut nav, mut body) = (String::new(), String::new());
        for (at, (name, content)) in self.sections.iter().enumerate() {
            let name = Html::text(name).0;
            nav += &format!("<a href=\"#s{at}\">{name}</a>\n");
            body += &format!("<section id=\"s{at}\"><h2>{name}</h2>\n{}</section>\n", content.0);
        }
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n<header><h1>{title}</h1>\n<p class=\"subtitle\">{subtitle}</p>\n\
             <nav>\n{nav}</nav></header>\n<main>\n{body}</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
        )
    }

    /// Writes the file.
    ///
    /// # Errors
    /// A user error where it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_atomic(path, self.render().as_bytes())
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) & 63;
            out.push(if digit <= chunk.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // The test vectors of RFC 4648, section 10.
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn nothing_a_user_writes_becomes_markup() {
        let evil = "</script><script>alert('1')</script>\"><img src=x onerror=y>&\u{0}";
        let page = Page::new(evil, evil)
            .section(
                evil,
                [paragraph(evil), heading(evil), names(&[evil]), figure(b"x", evil)].into_iter().collect(),
            )
            .section("tiles", tiles(&[(evil, evil.into())]))
            .section(
                "table",
                table(
                    &[(evil, Best::None)],
                    &[
                        vec![Cell::Text(evil.into())],
                        vec![Cell::Code(evil.into())],
                        vec![Cell::Link(evil.into(), "javascript:alert(1)".into())],
                    ],
                ),
            );
        let text = page.render();
        assert_eq!(text.matches("<script").count(), 1, "the page's own");
        assert!(!text.contains("<img src=x") && !text.contains('\u{0}'));
        assert!(text.contains("href=\"./javascript%3Aalert%281%29\""), "a link stays within the directory");
    }

    #[test]
    fn the_best_of_several_is_marked() {
        let rows = |values: &[Option<f64>]| -> Vec<Vec<Cell>> {
            values.iter().map(|v| vec![Cell::decimals(*v, 2)]).collect()
        };
        let marked = |best, values: &[Option<f64>]| {
            let html = table(&[("F1", best)], &rows(values));
            let marks: Vec<usize> =
                html.0.lines().enumerate().filter(|(_, l)| l.contains("best")).map(|(at, _)| at).collect();
            marks
        };
        assert_eq!(marked(Best::Highest, &[Some(0.2), None, Some(0.5)]), [3]);
        assert_eq!(marked(Best::Lowest, &[Some(0.2), None, Some(0.5)]), [1]);
        assert!(marked(Best::None, &[Some(0.2), Some(0.5)]).is_empty());
        assert!(marked(Best::Highest, &[Some(0.2), None, Some(f64::NAN)]).is_empty(), "one alone is no best");
    }
}
