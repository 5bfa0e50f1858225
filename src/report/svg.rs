//! Line charts for pages: SVG within the HTML, with the values in it for the pointer.

use crate::report::html::Html;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 546.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 270.0;
/// Colours of the style sheet, `--c0` and on.
const COLOURS: usize = 8;
/// Up to so many points of a curve are marked as well.
const MARKED_POINTS: usize = 30;

/// A curve.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its colour: one of eight, then the same again with dashes.
    pub colour: usize,
    /// Its points by increasing x; those that are no finite numbers leave a gap.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// What stands above it.
    pub title: String,
    /// What x is, e.g. "epoch".
    pub x: String,
    /// The curves.
    pub series: Vec<Series>,
    /// The ends of the y axis, where they are not to follow from the values (then from zero up).
    pub range: Option<(f64, f64)>,
    /// A logarithmic y axis; values of zero and less are left out.
    pub log: bool,
    /// An x to mark, with what it is.
    pub mark: Option<(f64, String)>,
}

/// How values become places.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
    log: bool,
}

impl Scale {
    fn of(chart: &Chart) -> Self {
        let points = || chart.series.iter().flat_map(|s| &s.points).filter(|p| is_shown(p, chart.log));
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        };
        let mut x = ends(&mut points().map(|p| p.0));
        if x.0 >= x.1 {
            x = if x.0.is_finite() { (x.0 - 1.0, x.0 + 1.0) } else { (0.0, 1.0) };
        }
        let found = ends(&mut points().map(|p| p.1));
        let y = match chart.range {
            Some(range) => range,
            None if !found.0.is_finite() => (if chart.log { 0.1 } else { 0.0 }, 1.0),
            None if chart.log => {
                (10f64.powf(found.0.log10().floor()), 10f64.powf((found.1 * 1.01).log10().ceil()))
            }
            None if found.1 <= 0.0 => (found.0.min(-1.0), 0.0),
            None => (found.0.min(0.0), found.1 * 1.08),
        };
        Self { x, y, log: chart.log }
    }

    fn px(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (RIGHT - LEFT)
    }

    fn py(&self, y: f64) -> f64 {
        let place = |y: f64| if self.log { y.log10() } else { y };
        let share = (place(y) - place(self.y.0)) / (place(self.y.1) - place(self.y.0));
        BOTTOM - share.clamp(-0.02, 1.02) * (BOTTOM - TOP)
    }
}

fn is_shown(point: &(f64, f64), log: bool) -> bool {
    point.0.is_finite() && point.1.is_finite() && (!log || point.1 > 0.0)
}

/// Draws a chart with its legend.
pub fn chart(chart: &Chart) -> Html {
    let scale = Scale::of(chart);
    let mut svg = axes(chart, &scale);
    if let Some((x, _)) = chart.mark {
        let at = scale.px(x);
        svg += &format!("<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>");
    }
    svg += &chart.series.iter().map(|series| curve(series, &scale)).collect::<String>();
    svg += &format!("<line class=\"ruler\" x1=\"0\" x2=\"0\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>");
    let (data, title) = (Html::text(data(chart, &scale)), Html::text(&chart.title));
    Html::markup(format!(
        "<figure class=\"chart\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\" \
         data-chart=\"{}\">{svg}</svg>{}<div class=\"tip\"></div></figure>\n",
        title.as_str(),
        data.as_str(),
        legend(chart)
    ))
}

/// What the page's script shows under the pointer.
fn data(chart: &Chart, scale: &Scale) -> serde_json::Value {
    let series = chart.series.iter().map(|series| {
        let points: Vec<_> = series.points.iter().filter(|p| is_shown(p, scale.log)).collect();
        serde_json::json!({"name": series.name, "points": points})
    });
    serde_json::json!({
        "x": chart.x, "width": WIDTH, "left": LEFT, "right": RIGHT, "from": scale.x.0, "to": scale.x.1,
        "series": series.collect::<Vec<_>>(),
    })
}

fn axes(chart: &Chart, scale: &Scale) -> String {
    let text = |x: f64, y: f64, anchor: &str, class: &str, text: &str| {
        let text = Html::text(text);
        format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>",
            text.as_str()
        )
    };
    let mut out = text(LEFT, 20.0, "start", "title", &chart.title);
    out += &text((LEFT + RIGHT) / 2.0, HEIGHT - 12.0, "middle", "", &chart.x);
    for (value, label) in y_ticks(scale) {
        let at = scale.py(value);
        out += &format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        out += &text(LEFT - 8.0, at + 4.5, "end", "", &label);
    }
    // Epochs are whole numbers, thresholds and recalls are not.
    let is_whole = chart.series.iter().flat_map(|s| &s.points).all(|p| p.0.fract() == 0.0);
    for (value, label) in ticks(scale.x, 7.0, if is_whole { 1.0 } else { 0.0 }) {
        out += &text(scale.px(value), BOTTOM + 19.0, "middle", "", &label);
    }
    out
}

fn y_ticks(scale: &Scale) -> Vec<(f64, String)> {
    if !scale.log {
        return ticks(scale.y, 5.0, 0.0);
    }
    let (low, high) = (scale.y.0.log10().round() as i32, scale.y.1.log10().round() as i32);
    // Within few decades there is room for twos and fives.
    let digits: &[i32] = if high - low <= 2 { &[1, 2, 5] } else { &[1] };
    let all = (low..=high).flat_map(|power| digits.iter().map(move |digit| (*digit, power)));
    let all = all.map(|(digit, power)| (f64::from(digit) * 10f64.powi(power), format!("{digit}e{power}")));
    all.filter(|(value, _)| *value <= scale.y.1 * 1.001).collect()
}

/// At most about `most` round values within a range, at least `least` apart, with as many decimals as they need.
fn ticks((low, high): (f64, f64), most: f64, least: f64) -> Vec<(f64, String)> {
    let rough = ((high - low) / most).max(least).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough * 0.999).unwrap_or(rough);
    let decimals = (-(step.log10() + 1e-9).floor()).clamp(0.0, 12.0) as usize;
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).map(|value| (value, format!("{value:.decimals$}"))).collect()
}

fn curve(series: &Series, scale: &Scale) -> String {
    let mut path = String::new();
    let mut marks = String::new();
    let mut pen_is_down = false;
    for point in &series.points {
        if !is_shown(point, scale.log) {
            pen_is_down = false;
            continue;
        }
        let (x, y) = (scale.px(point.0), scale.py(point.1));
        path += &format!("{}{x:.1} {y:.1}", if pen_is_down { "L" } else { "M" });
        pen_is_down = true;
        if series.points.len() <= MARKED_POINTS {
            marks += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
        }
    }
    let (colour, dashes) = (series.colour % COLOURS, dashes(series.colour));
    format!(
        "<path class=\"curve\" d=\"{path}\" style=\"stroke:var(--c{colour})\"{dashes}/>\
         <g style=\"fill:var(--c{colour})\">{marks}</g>"
    )
}

fn dashes(colour: usize) -> String {
    match colour / COLOURS {
        0 => String::new(),
        n => format!(" stroke-dasharray=\"{} 4\"", 3 * n + 4),
    }
}

fn legend(chart: &Chart) -> String {
    let entry = |series: &Series| {
        let (colour, style) =
            (series.colour % COLOURS, if series.colour < COLOURS { "solid" } else { "dashed" });
        let name = Html::text(&series.name);
        format!("<span><i style=\"border-top:3px {style} var(--c{colour})\"></i>{}</span>", name.as_str())
    };
    let mut entries: String = chart.series.iter().map(entry).collect();
    if let Some((_, what)) = &chart.mark {
        entries += &format!(
            "<span><i style=\"border-top:2px dashed var(--soft)\"></i>{}</span>",
            Html::text(what).as_str()
        );
    }
    format!("<div class=\"legend\">{entries}</div>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(range: (f64, f64), least: f64) -> Vec<String> {
        ticks(range, 5.0, least).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_within_the_range() {
        assert_eq!(labels((0.0, 1.0), 0.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels((0.0, 0.83), 0.0), ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(labels((1.0, 100.0), 1.0), ["20", "40", "60", "80", "100"]);
        assert_eq!(labels((1.0, 2.0), 1.0), ["1", "2"], "no half epochs");
        assert_eq!(labels((0.0, 0.0004), 0.0), ["0.0000", "0.0001", "0.0002", "0.0003", "0.0004"]);
    }

    #[test]
    fn values_that_are_no_numbers_leave_a_gap_and_names_are_escaped() {
        let points = vec![(1.0, 0.5), (2.0, f64::NAN), (3.0, 0.25), (4.0, 0.2), (5.0, f64::INFINITY)];
        let series = Series { name: "<b>\"a\" & 'b'</b>".into(), colour: 9, points };
        let drawn = chart(&Chart { series: vec![series], x: "epoch".into(), ..Chart::default() });
        let drawn = drawn.as_str();
        assert!(!drawn.contains("<b>") && !drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        let path = drawn.split(" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1), "{path}");
        assert_eq!(drawn.matches("<circle").count(), 3);
    }

    #[test]
    fn empty_flat_and_logarithmic_charts_are_drawn() {
        let with = |values: &[f64], log| {
            let points = values.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect();
            let series = vec![Series { name: "a".into(), colour: 0, points }];
            chart(&Chart { series, log, ..Chart::default() }).as_str().to_string()
        };
        for values in [&[][..], &[0.0], &[0.5, 0.5], &[-1.0, -2.0], &[1e-3, 1e-4, 0.0]] {
            for log in [false, true] {
                let drawn = with(values, log);
                assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{values:?} {log}: {drawn}");
            }
        }
        let drawn = with(&[1e-3, 5e-4, 1e-4], true);
        assert!(drawn.contains(">1e-2<") || drawn.contains(">1e-3<"), "{drawn}");
        assert!(drawn.contains(">1e-4<"), "{drawn}");
    }
}
