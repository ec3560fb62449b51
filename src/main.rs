fn main() {
    println!("{:?}", candle_core::utils::with_avx());
}
