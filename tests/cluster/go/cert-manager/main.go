// cert-manager-controller runs cert-manager's own controllers: its released main is a module that the
// proxy does not serve. Issuers of the kinds selfSigned and CA; no ACME, Vault, webhook or leader election.
//
//	cert-manager-controller --kubeconfig FILE --cluster-resource-namespace NAMESPACE
package main

import (
	"context"
	"flag"
	"log"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/cert-manager/cert-manager/pkg/controller"
	"k8s.io/klog/v2"

	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	_ "github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	_ "github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
)

const workers = 2 // of each controller: the test has a handful of certificates

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	factory, err := controller.NewContextFactory(ctx, options())
	check(err)
	running := start(ctx, factory)
	running.Wait()
}

func options() (o controller.ContextOptions) {
	flag.StringVar(&o.Kubeconfig, "kubeconfig", "", "of an administrator")
	flag.StringVar(&o.ClusterResourceNamespace, "cluster-resource-namespace", "", "where the Secrets of ClusterIssuers are")
	klog.InitFlags(nil)
	flag.Parse()
	// The defaults of cert-manager's own main.
	o.DefaultIssuerKind, o.DefaultIssuerGroup = "Issuer", "cert-manager.io"
	o.CopiedAnnotationPrefixes = []string{"*", "-kubectl.kubernetes.io/", "-fluxcd.io/", "-argocd.argoproj.io/"}
	o.CertificateRequestMinimumBackoffDuration, o.CertificateRequestMaximumBackoffDuration = time.Hour, 32*time.Hour
	return o
}

// start runs every controller that the imports above have made known; informers start once all have asked for theirs.
func start(ctx context.Context, factory *controller.ContextFactory) *sync.WaitGroup {
	shared, err := factory.Build()
	check(err)
	made := map[string]controller.Interface{}
	for name, construct := range controller.Known() {
		made[name], err = construct(factory)
		check(err)
	}
	shared.SharedInformerFactory.Start(ctx.Done())
	shared.KubeSharedInformerFactory.Start(ctx.Done())
	shared.HTTP01ResourceMetadataInformersFactory.Start(ctx.Done())
	var running sync.WaitGroup
	for name, one := range made {
		running.Go(func() {
			log.Println("starting", name)
			if err := one.Run(workers, ctx); err != nil && ctx.Err() == nil {
				log.Fatalf("%s: %v", name, err)
			}
		})
	}
	return &running
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
