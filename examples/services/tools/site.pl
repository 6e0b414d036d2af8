# Serves the files below a directory: perl site.pl PORT DIRECTORY
use strict; use warnings; use IO::Socket::INET;
my ($port, $root) = @ARGV;
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $port, Listen => 16, ReuseAddr => 1) or die "port $port: $!\n";
while (my $client = $server->accept) {
    my ($path) = (<$client> // "") =~ m{^GET (/[\w./-]*) } or next;
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?$/ }
    my $file;
    my $found = $path !~ /\.\./ && open($file, "<", "$root$path") && -f $file;
    print STDERR ($found ? 200 : 404), " $path\n";
    print $client $found ? "HTTP/1.0 200 OK\r\n\r\n" : "HTTP/1.0 404 Not Found\r\n\r\n";
    if ($found) { local $/; print $client scalar <$file> }
    close $client;
}
