# gcd
gcd() {
  a=$1 b=$2
  while [ "$b" != 0 ]; do c=$((a % b)) a=$b b=$c; done
  echo $a
}
