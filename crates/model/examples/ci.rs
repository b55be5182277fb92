use holdfast_model::*;
fn main() {
    let b = match std::env::args().nth(1).as_deref() {
        Some("small") => Bound::Small,
        Some("full") => Bound::Full,
        _ => Bound::Ci,
    };
    for s in scopes(b) {
        let t = std::time::Instant::now();
        let o = explore(&s, 60_000_000);
        println!(
            "{}: {:?} {:?} states {} distinct {} depth {}",
            s.name,
            matches!(o.end, End::Complete),
            t.elapsed(),
            o.states,
            o.distinct,
            o.depth
        );
        if let End::Violation(v) = o.end {
            println!("{}", v.property);
            for s in v.steps {
                println!("  {s}");
            }
        }
    }
}
