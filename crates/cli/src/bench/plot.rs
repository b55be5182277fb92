//! Latency over quantile, as SVG: one line for each target, both axes logarithmic (the quantile's by its distance from 1).

use super::sample::Series;
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 20.0;
const BOTTOM: f64 = 50.0;
/// Nines of the last quantile shown: 99.999 %.
const NINES: f64 = 5.0;
const COLORS: [&str; 4] = ["#0b6e99", "#c2410c", "#4d7c0f", "#6b21a8"];

/// A picture of `series`.
pub(crate) fn svg(title: &str, series: &[Series]) -> String {
    let lines: Vec<(String, Vec<(f64, f64)>)> = series.iter().map(|s| (s.name.clone(), points(s))).collect();
    let values = || lines.iter().flat_map(|(_, points)| points.iter().map(|p| p.1));
    let low = values().fold(f64::INFINITY, f64::min).max(0.1);
    let high = values().fold(low * 10.0, f64::max);
    let (low, high) = (low.log10().floor(), high.log10().ceil());
    let x = |nines: f64| LEFT + (WIDTH - LEFT - RIGHT) * nines / NINES;
    let y = |log: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (log - low) / (high - low);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>{0}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{0}</text>\n",
        escape(title)
    );
    for (nines, label) in [(0.0, "0"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99"), (5.0, "99.999")] {
        let at = x(nines);
        line(&mut svg, (at, TOP), (at, HEIGHT - BOTTOM), "#ddd");
        text(&mut svg, (at, HEIGHT - BOTTOM + 18.0), "middle", label);
    }
    text(&mut svg, (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 12.0), "middle", "percent of requests are faster");
    let mut decade = low;
    while decade <= high {
        line(&mut svg, (LEFT, y(decade)), (WIDTH - RIGHT, y(decade)), "#ddd");
        text(&mut svg, (LEFT - 8.0, y(decade) + 4.0), "end", &label(decade));
        decade += 1.0;
    }
    for (i, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        let path: Vec<String> = points.iter().map(|(n, us)| format!("{:.1},{:.1}", x(*n), y(us.log10()))).collect();
        writeln!(svg, "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{}\"/>", path.join(" "))
            .expect("a string takes everything");
        let at = TOP + 16.0 * (i + 1) as f64;
        line(&mut svg, (LEFT + 10.0, at - 4.0), (LEFT + 34.0, at - 4.0), color);
        text(&mut svg, (LEFT + 40.0, at), "start", name);
    }
    svg.push_str("</svg>\n");
    svg
}

/// (nines of the quantile, µs), as far as there are requests enough to tell.
fn points(series: &Series) -> Vec<(f64, f64)> {
    let whole = series.whole();
    let most = super::sample::as_f64(whole.ops().max(1)).log10().min(NINES);
    let steps = (0..=100_u32).map(|i| NINES * f64::from(i) / 100.0).take_while(|nines| *nines <= most);
    steps.map(|nines| (nines, whole.micros(1.0 - 10f64.powf(-nines)).max(0.1))).collect()
}

fn label(decade: f64) -> String {
    match decade {
        d if d >= 6.0 => format!("{} s", 10f64.powf(d - 6.0)),
        d if d >= 3.0 => format!("{} ms", 10f64.powf(d - 3.0)),
        d => format!("{} µs", 10f64.powf(d)),
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), color: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    writeln!(svg, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\"/>")
        .expect("a string takes everything");
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>", at.0, at.1, escape(text))
        .expect("a string takes everything");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample::Sample;
    use std::time::Duration;

    #[test]
    fn a_picture_names_its_lines_and_stays_inside() {
        let mut sample = Sample::new();
        (1..2000).for_each(|us| sample.note(Duration::from_micros(us), 1));
        let series = [Series { name: "vm<1>".to_owned(), samples: vec![sample] }];
        let svg = svg("randwrite & more", &series);
        assert!(svg.contains("vm&lt;1&gt;") && svg.contains("randwrite &amp; more"), "{svg}");
        let points = svg.split("points=\"").nth(1).and_then(|s| s.split('"').next()).expect("a line");
        for pair in points.split(' ') {
            let (x, y) = pair.split_once(',').expect("a pair");
            let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
            assert!((LEFT..=WIDTH).contains(&x) && (TOP..=HEIGHT).contains(&y), "{pair}");
        }
    }
}
